"""The options that a benchmark names of a session are those that it was timed with."""

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from export.benchmark.candidates import Candidate
from export.benchmark.opened import open_candidate
from tests.helpers.classifiers import MEAN, STD

SILENT = "log_severity_level"


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What sessions are opened with from now on."""
    seen: dict[str, str] = {}

    class Seen(onnxruntime.SessionOptions):
        def __setattr__(self, name: str, value: Any) -> None:
            seen[name] = str(value)
            super().__setattr__(name, value)

        def add_session_config_entry(self, key: str, value: str) -> None:
            seen[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Seen)
    return seen


@pytest.mark.parametrize("threads", [1, 2])
def test_the_options_of_onnx_runtime_are_all_that_its_session_was_opened_with(
    trained_onnx: Path, chosen: dict[str, str], threads: int
) -> None:
    candidate = Candidate("student.onnx", "student", "ort", "fp32", trained_onnx, "", 1, MEAN, STD)
    open_candidate(candidate, threads)
    chosen.pop(SILENT)
    assert candidate.options(threads) == chosen
    assert chosen["session.force_spinning_stop"] == "1"
    assert chosen["intra_op_num_threads"] == str(threads)
