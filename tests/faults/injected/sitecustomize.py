"""Faults put into the real command from outside: Python imports this first where its folder is on PYTHONPATH.

FAULT is one of
    kill EVENT PATH N   SIGKILL just before the Nth time that audit event EVENT touches a path that matches PATH
    slow-sync SECONDS   every fsync takes that long
    out-of-memory WHOSE the first step of an optimiser finds the memory full: of the host, or of the device
    clock               the wall clock jumps back an hour each time it is read
    list EVENT          every EVENT with its path, a line each, into the file of FAULT_LOG
"""

import os
import re
import signal
import sys
import time


def kill(event: str, pattern: str, nth: str) -> None:
    left = int(nth)

    def hook(name: str, arguments: tuple) -> None:
        nonlocal left
        if name == event and any(isinstance(a, str | os.PathLike) and re.search(pattern, str(a)) for a in arguments):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def list_(event: str) -> None:
    log = os.open(os.environ["FAULT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(name: str, arguments: tuple) -> None:
        if name == event:
            os.write(log, f"{' '.join(str(a) for a in arguments if isinstance(a, str | os.PathLike))}\n".encode())

    sys.addaudithook(hook)


def slow_sync(seconds: str) -> None:
    sync = os.fsync

    def slow(handle: int) -> None:
        time.sleep(float(seconds))
        sync(handle)

    os.fsync = slow


def out_of_memory(whose: str) -> None:
    """Patches torch's SGD as soon as it has been imported."""

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "timm" and "torch" in sys.modules:
                sys.meta_path.remove(self)
                import torch

                def full(*_: object, **__: object) -> None:
                    if whose == "host":
                        torch.empty(1 << 55)
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

                torch.optim.SGD.step = full

    sys.meta_path.insert(0, Finder())


def clock() -> None:
    import datetime

    began, reads = time.time(), 0

    def earlier() -> float:
        nonlocal reads
        reads += 1
        return began - 3600 * reads

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromtimestamp(earlier(), tz)

    time.time = earlier
    time.time_ns = lambda: int(earlier() * 1e9)
    datetime.datetime = Clock


if fault := os.environ.pop("FAULT", "").split():  # the command alone, not the processes that it starts
    {"kill": kill, "list": list_, "slow-sync": slow_sync, "out-of-memory": out_of_memory, "clock": clock}[fault[0]](
        *fault[1:]
    )
