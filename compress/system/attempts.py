"""Errors of libraries and of modules that a user hands over, in words.

In: what is being done, and the error. Out: an error that says both. An error of compress itself stays a fault.
"""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from compress.system.errors import CompressError, InputError, first_line, is_out_of_memory

_OURS = ("compress", "export")
_PYTHON = {*sys.stdlib_module_names, "builtins"}


@contextmanager
def attempting(
    what: str, *, hint: str = "--debug shows where.", kind: type[CompressError] = InputError
) -> Iterator[None]:
    """An error that a library raises within the block becomes one that says what was being done.

    Args:
        what: is being done to which file or model, such as "training the student resnet18".
        hint: what to do about it.
        kind: of the error.
    """
    try:
        yield
    except Exception as error:
        if (
            isinstance(error, (CompressError, OSError))
            or is_out_of_memory(error)
            or (source := raised_by(error)) is None
        ):
            raise
        said = first_line(error)
        name = type(error).__name__
        raise kind(f"{what} failed in {source} ({said if said == name else f'{name}: {said}'})", hint) from error


def raised_by(error: BaseException) -> str | None:
    """The package that raised the error; None where that is compress itself, or torch between processes.

    It is the package of the error's class, else that of the innermost function that is not Python's own.
    """
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(name.startswith("torch.distributed") for name in names) or "gloo" in str(error) or "NCCL" in str(error):
        return None
    packages = [type(error).__module__, *reversed(names)]
    found = next((name for name in (package.split(".")[0] for package in packages) if name not in _PYTHON), None)
    return None if found in (None, *_OURS) else found
