"""The errors that a user can meet, and the exit code of each.

Every error that is meant for a user is a CompressError. The command line prints it as one line, `error: WHAT. HINT`.
"""

import re
import sys
import traceback
from collections.abc import Sequence

from compress.system.distribution import DISTRIBUTION

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_BREAKS = re.compile(r" *[^\S ]+[\s]*")

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_ENVIRONMENT = 4
EXIT_DIVERGED = 5
EXIT_GATE = 6


class CompressError(Exception):
    """An error that is meant for a user. Each subclass has its exit code.

    Args:
        message: what went wrong.
        hint: what to do about it.
    """

    code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        what = _one_line(self.message).rstrip(".")
        hint = _one_line(self.hint)
        return f"{what}. {hint}" if hint else what


class UsageError(CompressError):
    """A bad recipe or bad usage."""

    code = EXIT_USAGE


class InputError(CompressError):
    """Data that is missing or damaged, weights that cannot be read, or a teacher whose classes do not fit."""

    code = EXIT_INPUT


class MachineError(CompressError):
    """A library, GPU, disk or permission that is missing, or a folder that is in use."""

    code = EXIT_ENVIRONMENT


class DivergedError(CompressError):
    """A loss or gradient that is not finite."""

    code = EXIT_DIVERGED


class GateError(CompressError):
    """A measured value that misses its limit."""

    code = EXIT_GATE


class FaultError(CompressError):
    """An error that nobody foresaw."""


def fault(error: BaseException) -> FaultError:
    """An unforeseen error as one line.

    Its traceback becomes a note of the new error. `--debug` prints the note, and other processes receive it.
    """
    first = (str(error).strip().splitlines() or [""])[0]
    found = FaultError(
        f"{type(error).__name__}: {first}", "This is a fault in compress: please report it, with --debug."
    )
    found.add_note("".join(traceback.format_exception(error)))
    return found


def _one_line(text: str) -> str:
    """Without line breaks and tabs. Spaces stay as they are: a path may have two in a row."""
    return _BREAKS.sub(" ", text).strip()


def first_line(error: BaseException) -> str:
    """The first line of the error's text. The rest is mostly for the authors of the library that raised it."""
    lines = _ESCAPES.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def listed(names: Sequence[str], most: int = 50) -> str:
    """Names for a message, separated by commas. Of more than `most` the rest is counted."""
    more = f", and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def install_extra(name: str) -> str:
    """The hint for a missing optional library: the command that installs it for this Python."""
    return f"{sys.executable} -m pip install '{DISTRIBUTION}[{name}]'"


_NO_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or the host was too small.

    torch reports the host's, that of cuBLAS and cuDNN, and that of a kernel's start by a plain RuntimeError.
    """
    torch = sys.modules.get("torch")  # not imported here: an error of torch exists only once torch is imported
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY))
    )


def is_of_the_machine(error: BaseException) -> bool:
    """Whether memory, disk or a permission failed, or an error says that it was raised from such a one: it may pass."""
    link: BaseException | None = error
    while link is not None:
        # Python's own OSError without a number says that there is no source code, which torch looks for.
        if (isinstance(link, OSError) and link.errno) or isinstance(link, MachineError) or is_out_of_memory(link):
            return True
        link = link.__cause__
    return False


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. It is not an Exception, so that no handler treats it as an error."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.code = 128 + signal_number
