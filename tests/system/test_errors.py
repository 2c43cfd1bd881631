"""Errors as a line, and which say that memory was too small: those that torch and numpy raise on any machine for what
nobody has."""

import errno
import inspect
import itertools

import click
import numpy as np
import pytest
import torch

from compress.cli import main as cli
from compress.system.errors import (
    EXIT_ENVIRONMENT,
    InputError,
    MachineError,
    is_of_the_machine,
    is_out_of_memory,
)


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 55), lambda: np.empty(1 << 55)])
def test_a_host_without_the_memory_is_said_as_the_machine_s_limit(
    ask: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(ask)
    monkeypatch.setattr(cli.cli, "commands", {"ask": click.Command("ask", callback=ask)})
    monkeypatch.setattr("sys.argv", ["compress", "ask"])
    monkeypatch.setattr("compress.system.console.show_log", lambda: None)  # it would hide later tests' warnings
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == EXIT_ENVIRONMENT
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory: ")
    assert "Use smaller batches" in said


def test_what_may_pass_is_seen_through_the_errors_that_were_raised_from_it() -> None:
    def chained(*errors: Exception) -> BaseException:
        for error, cause in itertools.pairwise(errors):
            error.__cause__ = cause
        return errors[0]

    full = OSError(errno.ENOSPC, "No space left on device")
    assert is_of_the_machine(full)
    assert is_of_the_machine(chained(InputError("cannot be exported"), RuntimeError("torch"), MemoryError()))
    assert is_of_the_machine(chained(InputError("cannot be exported"), MachineError("cannot write", "Free space.")))
    assert not is_of_the_machine(chained(InputError("cannot be exported"), TypeError("odd layers")))
    with pytest.raises(OSError, match="source") as unknown:
        inspect.getsource(eval("lambda: 0"))  # as torch does, of code that has none
    assert not is_of_the_machine(unknown.value)


def test_a_fault_is_not_taken_for_too_little_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    for library in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"):  # fmt: skip
        assert is_out_of_memory(RuntimeError(library))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_spaces_of_a_path_are_shown_as_they_are() -> None:
    error = InputError("image /data/my  cat.png\n   cannot be\tread", "Look\n at it.")
    assert str(error) == "image /data/my  cat.png cannot be read. Look at it."
