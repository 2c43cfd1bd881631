"""The verdict on hand-made evidence: what passes, what fails, what stays open, and which file is recommended."""

import dataclasses

import pytest

from compress.recipe import BenchmarkLimits as Limits
from compress.system.errors import GateError
from export.benchmark.results import Interval, Judgement
from export.benchmark.verdict import Evidence, decide, gate, judge, overall, pareto
from export.statistics import ClassDrop, PairedDrop


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value=value, low=low, high=high)


def file(name: str = "student.onnx", **changes: object) -> Evidence:
    drop = PairedDrop(10_000, 150, 100)
    known: dict = {"top1": 0.9, "size_bytes": 1_000_000, "drop": drop, "p50_ms": 1.0, "runs": 1000}
    return Evidence(name, **{**known, "p90_ms": interval(1.2, 1.1, 1.3), **changes})


def only(**limits: float | None) -> Limits:
    return Limits(**{"max_top1_drop": None, **limits})


def judged(evidence: Evidence, **limits: float) -> Judgement:
    (judgement,) = judge(evidence, only(**limits))
    return judgement


def class_drop(n: int, lost: int) -> ClassDrop:
    drop = PairedDrop(n, lost, 0)
    return ClassDrop(0, drop, 1.0, 1 - lost / n, *drop.range()[1:])


@pytest.mark.parametrize(
    ("drop", "expected"),
    [
        (PairedDrop(10_000, 150, 100), "PASS"),
        (PairedDrop(10_000, 500, 100), "FAIL"),
        (PairedDrop(10_000, 250, 60), "UNDECIDED"),
        (PairedDrop(80, 0, 0), "UNDECIDED"),
        (PairedDrop(1000, 0, 0), "PASS"),
    ],
)
def test_a_drop_passes_only_when_its_whole_interval_clears_the_limit(drop: PairedDrop, expected: str) -> None:
    judgement = judged(file(drop=drop), max_top1_drop=0.02)
    assert judgement.outcome == expected
    assert (judgement.samples_to_decide is not None) == (expected == "UNDECIDED")
    if judgement.samples_to_decide:
        assert judgement.samples_to_decide > drop.n


@pytest.mark.parametrize(
    ("p90", "expected"),
    [((1.2, 1.1, 1.3), "PASS"), ((1.6, 1.55, 1.7), "FAIL"), ((1.4, 1.3, 1.6), "UNDECIDED")],
)
def test_latency_is_judged_by_its_interval(p90: tuple[float, float, float], expected: str) -> None:
    judgement = judged(file(p90_ms=interval(*p90)), p90_ms=1.5)
    assert judgement.outcome == expected
    # A tenth away with an interval that reaches two tenths: four times the runs.
    assert judgement.samples_to_decide == (4000 if expected == "UNDECIDED" else None)


def test_what_was_not_run_is_undecided_and_not_guessed() -> None:
    judgement = judged(file(p90_ms=None), p90_ms=1.5)
    assert (judgement.outcome, judgement.measured) == ("UNDECIDED", None)
    assert judgement.note.startswith("not run")


def test_size_has_no_interval() -> None:
    assert judged(file(), max_size_mb=1.0).outcome == "PASS"
    assert judged(file(size_bytes=1_000_001), max_size_mb=1.0).outcome == "FAIL"


def test_one_bad_class_fails_and_is_named() -> None:
    rows = [("cat", class_drop(500, 200)), ("dog", class_drop(500, 0))]
    judgement = judged(file(classes=rows), max_class_drop=0.1)
    assert (judgement.outcome, judgement.of) == ("FAIL", " in class cat")
    rows = [("cat", class_drop(500, 5)), ("rare", class_drop(10, 0))]
    judgement = judged(file(classes=rows), max_class_drop=0.1)
    assert (judgement.outcome, judgement.of) == ("UNDECIDED", " in class rare")
    assert judgement.samples_to_decide is not None


def test_the_worst_judgement_counts_and_none_at_all_decides_nothing() -> None:
    good, bad = judged(file(), max_size_mb=2), judged(file(), max_size_mb=0.5)
    unclear = judged(file(p90_ms=None), p90_ms=1)
    assert overall([good]) == "PASS"
    assert overall([good, unclear]) == "UNDECIDED"
    assert overall([good, unclear, bad]) == "FAIL"
    assert overall([]) == "UNDECIDED"


def test_the_pareto_set_holds_what_no_other_beats() -> None:
    points = {"slow, best": (0.9, 4.0), "fast": (0.8, 1.0), "beaten": (0.8, 2.0), "middle": (0.85, 2.0)}
    assert pareto(points) == ["fast", "middle", "slow, best"]
    assert set(pareto({"a": (0.9, 1.0), "its equal": (0.9, 1.0)})) == {"a", "its equal"}


def test_the_fastest_of_those_that_pass_is_recommended() -> None:
    files = [
        file("plain", p50_ms=2.0),
        file("fast", p50_ms=1.0),
        file("fastest but bad", p50_ms=0.5, drop=PairedDrop(10_000, 900, 0)),
    ]
    verdict = decide(files, Limits(), {})
    assert (verdict.outcome, verdict.recommended) == ("PASS", "fast")
    assert verdict.by_file == {"plain": "PASS", "fast": "PASS", "fastest but bad": "FAIL"}


def test_where_none_was_timed_a_file_that_its_export_found_slower_than_fp32_is_not_recommended() -> None:
    small = file("int8", p50_ms=None, size_bytes=1_000)
    assert decide([file("fp32", p50_ms=None), small], Limits(), {}).recommended == "int8"
    slower = dataclasses.replace(small, slower=True)
    assert decide([file("fp32", p50_ms=None), slower], Limits(), {}).recommended == "fp32"
    timed = dataclasses.replace(slower, p50_ms=0.5)
    assert decide([file("fp32", p50_ms=1.0), timed], Limits(), {}).recommended == "int8", "here it is faster"


def test_a_file_that_is_undecided_at_its_gate_is_not_recommended_over_one_that_passed() -> None:
    """Whether it clears the limits of the verdict or not. The verdict says why the faster one is not recommended."""
    slow, fast = file("slow", p50_ms=2.0), file("fast", p50_ms=1.0, gate="UNDECIDED")
    verdict = decide([fast, slow], Limits(), {})
    assert (verdict.outcome, verdict.recommended) == ("PASS", "slow")
    assert verdict.by_file == {"fast": "UNDECIDED", "slow": "PASS"}
    assert verdict.passed_over == {"fast": "UNDECIDED at the gate of its export"}

    open_drop = PairedDrop(80, 0, 0)
    verdict = decide(
        [file("fast", p50_ms=1.0, gate="UNDECIDED", drop=open_drop), file("slow", drop=open_drop)], Limits(), {}
    )
    assert (verdict.outcome, verdict.recommended) == ("UNDECIDED", "slow")

    failed = decide([fast, file("slow", p50_ms=2.0, gate="FAIL")], Limits(), {})
    assert (failed.outcome, failed.recommended) == ("UNDECIDED", "fast")
    assert failed.passed_over == {}


def test_a_faster_file_that_misses_a_limit_is_named_with_the_limit() -> None:
    fast = file("fast", p50_ms=0.5, drop=PairedDrop(10_000, 900, 0))
    assert decide([fast, file("slow")], Limits(), {}).passed_over == {"fast": "FAIL at max_top1_drop"}
    assert decide([file("fast", p50_ms=0.5), file("slow")], Limits(), {}).passed_over == {}


def test_untimed_files_are_recommended_by_size() -> None:
    files = [file("large", p50_ms=None, size_bytes=2), file("small", p50_ms=None, size_bytes=1)]
    assert decide(files, Limits(), {}).recommended == "small"


def test_nothing_to_deploy_is_undecided() -> None:
    verdict = decide([], Limits(), {})
    assert (verdict.outcome, verdict.recommended) == ("UNDECIDED", None)


def test_the_gate_raises_on_fail_alone() -> None:
    gate(decide([file()], Limits(), {}))
    gate(decide([file(drop=PairedDrop(80, 0, 0))], Limits(), {}))
    with pytest.raises(GateError, match=r"max_top1_drop: 0\.04 .*0\.02 allowed") as caught:
        gate(decide([file(drop=PairedDrop(10_000, 500, 100))], Limits(), {}))
    assert caught.value.code == 6
