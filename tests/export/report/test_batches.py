"""Percentiles, deviation, throughput and cost of each batch, on the page and in the text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import report_runs
from export.benchmark import Benchmark
from tests.helpers.browser import Page

pytestmark = pytest.mark.slow
Change = Callable[..., Path]


def latencies(result: Benchmark, **changes: Any) -> dict[str, Any]:
    """The candidates on a quiet machine, with these changes in the model alone of the first at batch 1 and 3."""
    candidates = [entry.model_dump(mode="json") for entry in result.candidates]
    for candidate in candidates:
        for entry in candidate["latency"] if isinstance(candidate["latency"], list) else ():
            entry["busy"] = 0.0
    for entry in candidates[0]["latency"]:
        if entry["scope"] == "model":
            entry |= changes
        else:
            entry["images_per_s"] = {"value": 1234.0, "low": 1111.0, "high": 1333.0}
    return {"candidates": candidates}


def test_percentiles_deviation_and_throughput_of_each_batch_stand_below_the_table(
    browser: Page, changed: Change, result: Benchmark
) -> None:
    ends = {"value": 7.65, "low": 6.54, "high": 8.76}
    page, text = report_runs([changed("batches", **latencies(result, p99_ms=ends, mad_ms=0.2, p50_ms=ends))])
    browser.look()
    browser.open(page)
    rows = browser.run(
        "[...document.querySelector('[data-table=batches]').rows].map(r => [...r.cells].map(c => c.textContent))"
    )
    assert rows[0] == ["Model", "Batch", "p50 ms", "p90 ms", "p99 ms", "Deviation", "Images/s"]
    assert [row[:2] for row in rows[1:]] == [[c.name, batch] for c in result.candidates for batch in ("1", "3")]
    for row in rows[1:3]:
        assert (row[2], *row[4:]) == ("7.656.54 to 8.76", "7.656.54 to 8.76", "2.6 %", "1,2341,111 to 1,333")
    assert "2.6 %" in browser.run("document.querySelector('[data-table=latency]').tBodies[0].rows[0].textContent")
    lines = text.read_text(encoding="utf-8").splitlines()
    at = lines.index("| model | batch | p50 ms | p90 ms | p99 ms | deviation | images/s |")
    assert [line.split(" | ")[0].strip("| ★").replace("\\", "") for line in lines[at + 2 : at + 6 : 2]] == [
        "teacher.torch",
        "student.torch",
    ]
    cells = lines[at + 2].strip("| ").split(" | ")
    assert cells[2] == cells[4] == "7.65 (6.54 to 8.76)"
    assert cells[5:] == ["2.6 %", "1,234 (1,111 to 1,333)"]
    assert len({line.count("|") for line in lines[at : at + 2 + 2 * len(result.candidates)]}) == 1


def test_a_missing_p99_says_how_many_runs_it_needs(changed: Change, result: Benchmark) -> None:
    candidates = [entry.model_dump(mode="json") for entry in result.candidates]
    for entry in (entry for candidate in candidates for entry in candidate["latency"]):
        entry |= {"p99_ms": None, "runs": 200, "seconds": 1.0}
    best = result.verdict.recommended
    for path in report_runs([changed("p99", candidates=candidates)]):
        written = path.read_text(encoding="utf-8").replace("<code>", "`").replace("</code>", "`")
        assert "p99 needs 1,000 runs" in written
        assert f"{best} had 200 at batch 1; `compress benchmark --seconds 6` gives it enough." in written


def test_the_cost_of_each_batch_follows_from_the_price(changed: Change, result: Benchmark) -> None:
    limits = {**result.settings.limits, "price_per_hour": 3.6}
    page, text = report_runs([changed("cost", settings__limits=limits, **latencies(result))])
    written = page.read_text(encoding="utf-8")
    assert "for a million images" in written
    table = written.partition('data-table="batches"')[2].partition("</table>")[0]
    assert ">Per million<" in table
    assert table.count(">0.81</td>") == 2  # 3.6 / 3600 * 1e6 / 1234, at both batches
    assert "| 1,234 (1,111 to 1,333) | 0.81 |" in text.read_text(encoding="utf-8")
    assert "price_per_hour" not in written


def test_without_a_price_one_folded_line_says_that_there_is_the_key(changed: Change, result: Benchmark) -> None:
    page, text = report_runs([changed("no price", settings__limits={**result.settings.limits, "price_per_hour": None})])
    written = page.read_text(encoding="utf-8")
    assert "for a million images" not in written
    assert "Per million" not in written
    assert "<details><summary>What do a million images cost?</summary><p>Set <code>benchmark.price_per" in written
    folded = text.read_text(encoding="utf-8").partition("<details>")[2]
    assert folded.count("`benchmark.price_per_hour`") == 1


def test_the_main_table_has_the_best_throughput(browser: Page, changed: Change, result: Benchmark) -> None:
    candidates = latencies(result)["candidates"]
    ends = [entry for entry in candidates[0]["latency"] if entry["scope"] == "end-to-end"]
    ends[1]["images_per_s"] = {"value": 2000.0, "low": 1900.0, "high": 2100.0}
    browser.look()
    browser.open(report_runs([changed("best", candidates=candidates)])[0])
    heads, row = browser.run(
        "[...document.querySelector('[data-table=candidates]').rows].slice(0, 2)"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    assert row[heads.index("Images/s")] == "2,000batch 3"


def test_every_latency_has_its_p99_or_none(browser: Page, changed: Change, result: Benchmark) -> None:
    ends = {"value": 7.65, "low": 6.54, "high": 8.76}
    browser.look()
    browser.open(report_runs([changed("p99 of all", **latencies(result, p99_ms=ends))])[0])
    heads, row = browser.run(
        "[...document.querySelector('[data-table=latency]').rows].slice(0, 2)"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    assert row[heads.index("p99 ms")] == "7.656.54 to 8.76"
