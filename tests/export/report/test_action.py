"""The first line of a report: whether to deploy what is recommended, or what has to be done before that."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import report_runs
from export.benchmark import Benchmark, Interval, Judgement
from export.report.action import action, would_decide
from tests.helpers.benchmarked import benchmarked
from tests.helpers.browser import Page

pytestmark = pytest.mark.slow
Change = Callable[..., Path]
ENDS = {"PASS": (0.0, 0.01), "UNDECIDED": (0.01, 0.03), "FAIL": (0.03, 0.05)}


@pytest.fixture(scope="module")
def result(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Of a recommended student.int8.onnx."""
    made = benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")[1]
    return made.model_copy(update={"verdict": made.verdict.model_copy(update={"recommended": "student.int8.onnx"})})


def judged(outcome: Any, needed: int | None = None, **changes: Any) -> Judgement:
    low, high = ENDS[outcome]
    return Judgement(
        **{
            "limit": "max_top1_drop",
            "allowed": 0.02,
            "measured": Interval(value=(low + high) / 2, low=low, high=high),
            "outcome": outcome,
            "samples": 60,
            "samples_to_decide": needed,
            **changes,
        }
    )


def with_(result: Benchmark, *judgements: Judgement, gate: str = "PASS", needed: int | None = None) -> Benchmark:
    """The same with 60 pictures. gate: of the recommended file."""
    verdict = result.verdict.model_copy(update={"judgements": list(judgements)})
    data = result.data.model_copy(update={"eval_images": 60})
    update = {"gate": gate, "gate_images_to_decide": needed}
    candidates = [
        entry.model_copy(update=update) if entry.name == verdict.recommended else entry for entry in result.candidates
    ]
    return result.model_copy(update={"verdict": verdict, "data": data, "candidates": candidates})


P90 = {"limit": "p90_ms", "allowed": 5.0, "samples": 100}


def described(result: Benchmark) -> str:
    best: Any = result.candidate("student.int8.onnx")
    ms, top1 = best.latency[0].p50_ms.value, best.accuracy.top1.value
    return f"`student.int8.onnx` in ONNX Runtime with 1 thread: {ms:.3g} ms at batch 1, top-1 {100 * top1:.2f} %."


def test_what_passes_is_deployed(result: Benchmark) -> None:
    assert action(with_(result, judged("PASS"))) == f"Deploy {described(result)}"


def test_an_open_limit_says_how_many_pictures_decide_it(result: Benchmark) -> None:
    said = action(with_(result, judged("UNDECIDED", 1355)))
    assert said == f"Evaluate on 1,295 more pictures (1,355 in all) before deploying {described(result)}"
    assert "which no number of pictures would decide" in action(with_(result, judged("UNDECIDED", None)))


def test_an_open_gate_counts_too(result: Benchmark) -> None:
    """As the benchmark judged it: --set may have changed its limit, and a graph in bf16 has a gate of its own."""
    for verdict in (judged("PASS"), judged("UNDECIDED", 1355)):
        said = action(with_(result, verdict, gate="UNDECIDED", needed=2702))
        assert said.startswith("Evaluate on 2,642 more pictures (2,702 in all) before")
    assert "no number of pictures" in action(with_(result, judged("PASS"), gate="UNDECIDED"))


@pytest.mark.parametrize(
    ("measured", "needed", "step"),
    [
        ((4.0, 6.0), 900, "measure longer with `compress benchmark --seconds` (about 900 runs)"),
        ((6.0, 7.0), None, "measure again on a quiet machine"),  # it would have failed, had no other work run
        (None, None, "measure at batch 1 with `compress benchmark`"),
    ],
)
def test_an_open_latency_says_what_would_decide_it(
    result: Benchmark, measured: tuple[float, float] | None, needed: int | None, step: str
) -> None:
    ends = None if measured is None else Interval(value=sum(measured) / 2, low=measured[0], high=measured[1])
    p90 = judged("UNDECIDED", needed, **P90, measured=ends)
    assert action(with_(result, judged("PASS"), p90)).startswith(f"{step[0].upper()}{step[1:]} before deploying ")
    both = action(with_(result, judged("UNDECIDED", 70), p90))
    assert both.startswith(f"Evaluate on 10 more pictures (70 in all) and {step} before deploying ")


@pytest.mark.parametrize(
    ("judgement", "decides"),
    [
        (judged("PASS", 900), ""),
        (judged("UNDECIDED", 1355), "1,355 images"),
        (judged("UNDECIDED"), "no number of images"),
        (judged("UNDECIDED", 250, limit="max_class_drop"), "250 images"),
        (judged("UNDECIDED", limit="max_class_drop", measured=None), "images"),
        (judged("UNDECIDED", 900, **P90, measured=Interval(value=5.1, low=4.0, high=6.0)), "900 runs"),
        (judged("UNDECIDED", **P90, measured=Interval(value=5.0, low=4.0, high=6.0)), "more runs"),
        (judged("UNDECIDED", **P90, measured=Interval(value=6.5, low=6.0, high=7.0)), "a quiet machine"),
        (judged("UNDECIDED", **P90, measured=None), "a run at batch 1"),
    ],
)
def test_a_table_says_in_a_few_words_what_would_decide_a_limit(judgement: Judgement, decides: str) -> None:
    assert would_decide(judgement) == decides


def test_an_open_class_is_named(result: Benchmark) -> None:
    worst = judged("UNDECIDED", 250, limit="max_class_drop", samples=20, of=" in class dark")
    assert action(with_(result, worst)).startswith("Evaluate on 230 more pictures in class dark before deploying ")


def test_what_fails_is_not_deployed(result: Benchmark) -> None:
    said = action(with_(result, judged("FAIL"), judged("UNDECIDED", 900, **P90)))
    assert said.startswith("Do not deploy `student.int8.onnx`")
    assert "it misses max_top1_drop, 4.00 points where 2.00 points are allowed. Train" in said


def test_without_limits_a_file_of_its_own_or_any_file_the_next_step_is_named(result: Benchmark) -> None:
    assert action(with_(result)).startswith("Set a limit in the recipe, such as `benchmark.p90_ms`, before deploying")
    altered = action(with_(result, judged("PASS")), altered=["student.int8.onnx"])
    assert altered.startswith("Measure again with `compress benchmark`: `student.int8.onnx` is not the file")
    nothing = result.model_copy(update={"verdict": result.verdict.model_copy(update={"recommended": None})})
    assert action(nothing).startswith("Deploy nothing: ")


def test_what_to_do_leads_the_page_and_the_text(browser: Page, changed: Change, result: Benchmark) -> None:
    page, text = report_runs([changed("leads")])
    browser.look()
    browser.open(page)
    (first,) = browser.run("[...document.querySelectorAll('h1')].map(h => h.textContent)")
    assert browser.run("document.querySelector('section').firstElementChild.tagName") == "H1"
    line = text.read_text(encoding="utf-8").splitlines()[2]
    assert re.sub(r"[`\\]", "", line.strip("*")) == first
    assert str(result.verdict.recommended) in first
