"""Reads what torchrun tells each process in its environment, and decides which process reports an error.

In: environment variables. Out: size, rank and exit codes. Every command imports it, so it imports nothing heavy.
"""

import functools
import os
from datetime import timedelta
from typing import Any

_NUMBERS = ("WORLD_SIZE", "RANK", "MASTER_PORT")


def size() -> int:
    """The number of processes that torchrun started for this run; 1 without torchrun."""
    return int(os.environ["WORLD_SIZE"]) if _launched() else 1


def leftover() -> str:
    """What is set of torchrun's variables where not all of them are, as in a job's shell. They count for nothing."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "" if _launched() or size == "1" else f"WORLD_SIZE={size}"


def _launched() -> bool:
    return all(os.environ.get(name, "").isdecimal() for name in _NUMBERS) and bool(os.environ.get("MASTER_ADDR"))


def leads() -> bool:
    """Whether this process is the leader. Only the leader writes files and prints."""
    return size() == 1 or os.environ["RANK"] == "0"


@functools.cache
def store(part: str) -> Any:
    """A part of torchrun's key-value store. The store outlives every process of the run."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(part, next(rendezvous("env://"))[0])


def last_words(code: int) -> tuple[int, bool]:
    """How a process ends that met an error.

    The first process with an error reports it, and the others end with its code. They met the same error, or only found
    that the first one was gone.

    Args:
        code: the exit code of this process's own error.

    Returns:
        The exit code, and whether this process reports the error.
    """
    if size() == 1:
        return code, True
    try:
        ends = store("ends")
        if ends.add("errors", 1) == 1:
            ends.set("code", str(code))
            return code, True
        ends.wait(["code"], timedelta(seconds=5))
        return int(ends.get("code")), False
    except RuntimeError:  # torchrun itself is gone
        return code, True
