"""metrics.jsonl: which lines stay where a training goes on, and what is read of a file that was cut."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress.system.errors import MachineError
from compress.training.metrics import MetricsLog, read_metrics


def line(phase: str, epoch: int, **more: Any) -> dict[str, Any]:
    return {"phase": phase, "epoch": epoch, "loss": 0.5, **more}


def write(path: Path, lines: list[dict[str, Any]], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + rest)
    return path


def test_a_training_that_goes_on_writes_its_last_epochs_again(tmp_path: Path) -> None:
    lines = [line("teacher", 0), line("teacher", 1), line("student", 0), line("student", 1)]
    path = write(tmp_path / "metrics.jsonl", lines, rest='{"phase": "student", "epo')
    log = MetricsLog(path)
    log.keep_before("student", 1)
    assert read_metrics(path) == lines[:3]
    log.write(line("student", 1, loss=0.25))
    assert read_metrics(path) == [*lines[:3], line("student", 1, loss=0.25)]
    log.keep_before("teacher", 0)
    assert read_metrics(path) == [lines[2], line("student", 1, loss=0.25)]
    assert path.read_text().count("\n") == 2


def test_a_phase_of_another_log_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.jsonl", [line("teacher", 0, loss=9.0), line("student", 0)])
    other = write(tmp_path / "teacher.jsonl", [line("teacher", 0), line("teacher", 1)])
    MetricsLog(path).replace_phase("teacher", other)
    assert read_metrics(path) == [line("teacher", 0), line("teacher", 1), line("student", 0)]


@pytest.mark.parametrize("damage", ["no json", "[1, 2]", '{"phase": "student"}', '{"epoch": 1}', '"phase epoch"'])
def test_nothing_is_read_from_the_first_damaged_line_on(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "metrics.jsonl", [line("student", 0)], rest=f"{damage}\n{json.dumps(line('student', 1))}\n")
    assert read_metrics(path) == [line("student", 0)]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_value_that_is_not_finite_and_a_file_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        MetricsLog(tmp_path / "metrics.jsonl").write(line("student", 0, loss=float("nan")))
    with pytest.raises(MachineError, match=r"nowhere/metrics\.jsonl"):
        MetricsLog(tmp_path / "nowhere" / "metrics.jsonl").write(line("student", 0))
