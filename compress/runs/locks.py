"""Controls which process works in a folder.

In: a folder. Out: a lock or a scratch folder for the length of a block. With several machines it also checks that all
of them see the same folder.
"""

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from compress.system import files
from compress.system.errors import MachineError

logger = logging.getLogger(__name__)

LOCK = ".lock"
HOLDER = ".holder"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder within the block. The lock of a dead process does not count.

    Raises:
        MachineError: another process holds the folder (the message names it), or the folder cannot be written.
    """
    holder = folder / HOLDER
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise in_use(folder) from None
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    try:
        files.write_bytes(holder, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        files.remove_leftovers(folder)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def in_turn(lock_file: Path, what: str) -> Iterator[None]:
    """Waits while another process makes `what`, then holds the lock within the block. Makes the lock's folder.

    Args:
        what: for the log line while it waits.

    Raises:
        MachineError: the lock cannot be written.
    """
    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info(f"{what}: another run is training it; waiting for it")
            lock.acquire()
    except OSError as error:
        raise files.cannot_write(lock_file, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder`, removed after the block.

    The leader makes it, and all processes get the same one.

    Raises:
        MachineError: it cannot be written.
    """
    from compress.distributed.world import current  # imported here, because commands that list runs need no torch

    with ExitStack() as stack:

        def make() -> str:
            try:
                own = tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder, ignore_cleanup_errors=True)
            except OSError as error:
                raise files.cannot_write(folder, error) from error
            return stack.enter_context(own)

        yield Path(current().from_leader(make))


def require_common_folder(folder: Path) -> None:
    """Checks that all processes see the leader's folder, which exists.

    Raises:
        MachineError: in all processes, where one of them does not see it.
    """
    from compress.distributed.world import current

    world = current()
    if world.size == 1:
        return
    with scratch(folder) as probe:  # a new name: no file system has cached that it does not exist
        blind = world.from_each("" if probe.is_dir() else socket.gethostname())
    path = world.from_leader(folder.absolute)
    if machines := sorted(set(blind) - {""}):
        raise MachineError(
            f"machine {machines[0]} does not see {path} of the machine that leads",
            "All machines need the same working folder, on a file system that they share.",
        )


def in_use(folder: Path) -> MachineError:
    """The error for a folder that another process holds."""
    try:
        who = (folder / HOLDER).read_text(encoding="utf-8").strip()
    except OSError:
        who = "another process"
    return MachineError(f"{folder} is in use by {who}", "Wait for it, or choose another --out.")


def is_held(folder: Path) -> bool:
    """Whether a process works in the folder now."""
    try:
        with FileLock(folder / LOCK).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # a folder that cannot be written
