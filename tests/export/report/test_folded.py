"""What was not run is one line for each reason, and no row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import report_runs
from export.benchmark import Benchmark

pytestmark = pytest.mark.slow
Change = Callable[..., Path]


def not_timed(result: Benchmark, reasons: dict[str, str], unscored: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The candidates, with the reasons why some have no latency. Those of torch stay scored by a fixed top-1."""
    entries = [entry.model_dump(mode="json") for entry in result.candidates]
    for entry in entries:
        if reason := reasons.get(entry["name"]):
            entry["latency"] = entry["memory"] = {"source": "not run", "reason": reason}
            entry["accuracy"]["top1"]["value"] = 0.4321
        if entry["name"] in unscored:
            entry["accuracy"] = {"source": "not run", "reason": reason}
    return entries


def rows(page: Path, result: Benchmark) -> list[str]:
    """The names in the table of candidates, on the page."""
    table = page.read_text(encoding="utf-8").partition('data-table="candidates"')[2].partition("</table>")[0]
    return [e.name for e in result.candidates if f"<td>{e.name}<" in table or f"<td>{e.name} ★" in table]


def test_what_was_scored_alone_is_a_line_with_its_top1(changed: Change, result: Benchmark) -> None:
    torch = "runtime torch was not asked for"
    reasons = {"teacher.torch": torch, "student.torch": torch, "teacher.fp16.onnx": "no GPU here"}
    candidates = not_timed(result, reasons)
    next(entry for entry in candidates if entry["name"] == "teacher.fp16.onnx")["accuracy"]["source"] = "proxy"
    page, text = report_runs([changed("scored", candidates=candidates)])
    assert rows(page, result) == [entry.name for entry in result.candidates if entry.name not in reasons]
    lines = [
        f"Not timed, since {torch}: teacher.torch (top-1 43.21 %), student.torch (top-1 43.21 %).",
        "Not timed, since no GPU here: teacher.fp16.onnx (top-1 43.21 %, proxy).",
    ]
    for path in (page, text):
        written = path.read_text(encoding="utf-8")
        assert [written.count(line) for line in lines] == [1, 1]
        assert written.count(torch) == 1
    assert not any(f"| {name} |" in text.read_text(encoding="utf-8").replace("\\", "") for name in reasons)


def test_what_was_not_scored_either_is_a_line(changed: Change, result: Benchmark) -> None:
    both = ("teacher.fp16.onnx", "teacher.int8.onnx")
    candidates = not_timed(result, dict.fromkeys(both, "OpenVINO is not installed here"), both)
    page, text = report_runs([changed("missing", candidates=candidates)])
    assert not set(both) & set(rows(page, result))
    for path in (page, text):
        line = f"Not run, since OpenVINO is not installed here: {', '.join(both)}."
        assert path.read_text(encoding="utf-8").count(line) == 1
        assert path.read_text(encoding="utf-8").count("OpenVINO is not installed") == 1


def test_where_nothing_was_timed_what_was_scored_has_rows(changed: Change, result: Benchmark) -> None:
    names = [entry.name for entry in result.candidates]
    page, text = report_runs([changed("none", candidates=not_timed(result, dict.fromkeys(names, "no GPU here")))])
    assert rows(page, result) == names
    assert page.read_text(encoding="utf-8").count("no GPU here") == 1
    assert "Latency and throughput" not in page.read_text(encoding="utf-8")
    assert "| model | batch |" not in text.read_text(encoding="utf-8")


def test_what_is_recommended_keeps_its_row(changed: Change, result: Benchmark) -> None:
    best = result.verdict.recommended
    assert best
    page, _ = report_runs([changed("best", candidates=not_timed(result, {best: "no GPU here"}))])
    assert rows(page, result) == [entry.name for entry in result.candidates]
