"""Errors as a line, and which say that memory was too small: those that torch and numpy raise on any machine for what
nobody has."""

import click
import numpy as np
import pytest
import torch

from compress.cli import main as cli
from compress.system.errors import EXIT_ENVIRONMENT, InputError, is_out_of_memory


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 55), lambda: np.empty(1 << 55)])
def test_a_host_without_the_memory_is_said_as_the_machine_s_limit(
    ask: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(ask)
    monkeypatch.setattr(cli.cli, "commands", {"ask": click.Command("ask", callback=ask)})
    monkeypatch.setattr("sys.argv", ["compress", "ask"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == EXIT_ENVIRONMENT
    said = capsys.readouterr().err
    assert said.startswith("error: not enough memory: ")
    assert "Use smaller batches" in said


def test_a_fault_is_not_taken_for_too_little_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    for library in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"):  # fmt: skip
        assert is_out_of_memory(RuntimeError(library))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_spaces_of_a_path_are_shown_as_they_are() -> None:
    error = InputError("image /data/my  cat.png\n   cannot be\tread", "Look\n at it.")
    assert str(error) == "image /data/my  cat.png cannot be read. Look at it."
