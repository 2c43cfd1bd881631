"""What becomes of images that cannot be read.

In: why each of them cannot be read. Out: an error that names them, or the images that are left.
"""

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.system.errors import InputError, MachineError

_NAMED = 10
_MOST = 0.01
_ROWS = 256
_OF_THE_MACHINE = frozenset(
    {
        *(errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EBUSY, errno.EAGAIN),
        *(errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH),
    }
)
"""Errors of memory, disks and networks, which say nothing of the picture."""


def too_many(bad: int, total: int) -> bool:
    """Whether more than one image in a hundred is bad. Those are not left out: something is wrong with the data."""
    return bad > _MOST * total


def raise_unless_skipped(problems: Mapping[str, str], total: int, *, skip: bool, checked: bool = True) -> None:
    """Lets images that cannot be read be left out, if they are to be and are few.

    Args:
        problems: why each cannot be read, by path.
        total: of all images.
        skip: whether they are to be left out.
        checked: whether `compress data check` looks at these images.

    Raises:
        InputError: else. It names the first ten.
    """
    if skip and not too_many(len(problems), total):
        return
    named = "; ".join(f"{path} {problem}" for path, problem in list(problems.items())[:_NAMED])
    more = f"; and {len(problems) - _NAMED:,} more" if len(problems) > _NAMED else ""
    lists = "`compress data check RECIPE --json` lists all. " if more and checked else ""
    if skip:
        do = "Replace or remove them: more than one in a hundred are not left out."
    else:
        do = "Replace or remove them, or leave them out with data.on_bad_image: skip."
    count = "" if len(problems) == 1 else f"{len(problems):,} of {total:,} images cannot be read: "
    raise InputError(f"{count}image {named}{more}", f"{lists}{do}")


def leave_out(rows: set[int], images: Path) -> list[int]:
    """Takes rows out of an array in a file, which is copied in parts.

    Args:
        images: a .npy file [N, ...], which becomes shorter.

    Returns:
        The rows that are left.
    """
    array = np.load(images, mmap_mode="r", allow_pickle=False)
    kept = [row for row in range(len(array)) if row not in rows]
    shorter = images.with_suffix(".kept.npy")
    out = np.lib.format.open_memmap(shorter, mode="w+", dtype=array.dtype, shape=(len(kept), *array.shape[1:]))
    for start in range(0, len(kept), _ROWS):
        part = kept[start : start + _ROWS]
        out[start : start + len(part)] = array[part]
    out.flush()
    os.replace(shorter, images)
    return kept


def raise_if_of_the_machine(error: Exception, path: str | Path) -> None:
    """Raises MachineError where the machine is why a file was not read. Pillow's own errors have no errno."""
    if isinstance(error, MemoryError):
        raise MachineError(f"no memory to read {path}", "End other programs, and try again.") from error
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        raise MachineError(
            f"cannot read {path} ({error.strerror})",
            "It may be whole: look at disk, network and limits, and try again.",
        ) from error
