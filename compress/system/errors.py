"""The errors that a user can meet, and the exit code of each.

Everything raised on purpose for a user is a CompressError. The command line prints it as one line, `error: WHAT. HINT`.
"""

import re
import sys
import traceback

from compress.system.distribution import DISTRIBUTION

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_ENVIRONMENT = 4
EXIT_DIVERGED = 5
EXIT_GATE = 6


class CompressError(Exception):
    """What went wrong, and what to do about it. Subclasses fix the exit code."""

    code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        what = " ".join(self.message.split()).rstrip(".")
        hint = " ".join(self.hint.split())
        return f"{what}. {hint}" if hint else what


class UsageError(CompressError):
    """A bad recipe or bad usage."""

    code = EXIT_USAGE


class InputError(CompressError):
    """Data that is missing or corrupt, weights that cannot be read, a teacher whose classes do not fit."""

    code = EXIT_INPUT


class MachineError(CompressError):
    """A library, GPU, disk or permission that is missing, or a folder in use."""

    code = EXIT_ENVIRONMENT


class DivergedError(CompressError):
    """Training met a loss or gradient that is not finite."""

    code = EXIT_DIVERGED


class GateError(CompressError):
    """A measured value misses its limit."""

    code = EXIT_GATE


class FaultError(CompressError):
    """What nobody foresaw."""


def fault(error: BaseException) -> FaultError:
    """An unforeseen error as one line. Its traceback is a note, which --debug prints and which other processes get."""
    first = (str(error).strip().splitlines() or [""])[0]
    found = FaultError(
        f"{type(error).__name__}: {first}", "This is a fault in compress: please report it, with --debug."
    )
    found.add_note("".join(traceback.format_exception(error)))
    return found


def first_line(error: BaseException) -> str:
    """What the error says, without the lines that only its library's authors can read."""
    lines = _ESCAPES.sub("", str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def install_extra(name: str) -> str:
    """The hint where an optional library is missing: how this very Python gets it."""
    return f"{sys.executable} -m pip install '{DISTRIBUTION}[{name}]'"


def is_out_of_memory(error: BaseException) -> bool:
    """The device's or the host's memory was too small. torch says the host's by a plain RuntimeError."""
    torch = sys.modules.get("torch")  # not imported for this: whoever raises its error has done so
    return (
        isinstance(error, MemoryError)
        or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived. Not an Exception, so that no handler takes it for an error."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number
        self.code = 128 + signal_number
