"""What noise leaves open is warned of once, where it could change the verdict or what is recommended."""

import sys
from typing import Any

import pytest

from compress.recipe import BenchmarkLimits
from export.benchmark.noise import noise_warnings
from export.benchmark.results import Interval, Latency, LikeForLike, Outcome, Verdict

NO_LIMIT = BenchmarkLimits(max_top1_drop=None)


def interval(low: float, high: float) -> Interval:
    return Interval(value=(low + high) / 2, low=low, high=high)


def timed(p50: tuple[float, float], p90: tuple[float, float] = (9.0, 9.5), **changes: Any) -> Latency:
    """Noisy by its median deviation, whatever its intervals."""
    content: dict[str, Any] = {
        "scope": "model",
        "clock": "host",
        "batch": 1,
        "threads": 1,
        "runs": 100,
        "seconds": 1.0,
        "p50_ms": interval(*p50),
        "p90_ms": interval(*p90),
        "p99_ms": None,
        "early_stopping_p90_ms": None,
        "images_per_s": interval(400, 500),
        "mad_ms": p50[0],
        "noisy": True,
        "busy": 0.0,
        "speedup": None,
        "like_for_like": None,
    }
    return Latency(**{**content, **changes})


def verdict(best: str | None, **by_file: Outcome) -> Verdict:
    outcome = by_file[best] if best else "UNDECIDED"
    return Verdict(outcome=outcome, recommended=best, judgements=[], by_file=dict(by_file), pareto=[])


def warnings(decided: Verdict, entries: dict[str, Latency], limits: BenchmarkLimits = NO_LIMIT) -> list[str]:
    return noise_warnings(decided, entries, limits, "teacher.torch")


def test_a_wide_spread_alone_is_no_warning() -> None:
    entries = {"a": timed((1.0, 1.1)), "b": timed((2.0, 2.1)), "teacher.torch": timed((9.0, 9.1))}
    assert warnings(verdict("a", a="PASS", b="PASS"), entries) == []


def test_one_line_names_the_files_that_are_as_fast_within_noise() -> None:
    entries = {"a": timed((1.0, 1.2)), "b": timed((1.1, 1.4)), "c": timed((1.2, 1.3)), "d": timed((1.3, 1.4))}
    (line,) = warnings(verdict("a", a="PASS", b="PASS", c="PASS", d="PASS"), entries)
    assert line.startswith("As fast as a within noise: b, c (")


def test_a_file_with_another_outcome_or_none_is_no_rival() -> None:
    entries = {"a": timed((1.0, 1.2)), "b": timed((1.1, 1.4)), "teacher.int8.onnx": timed((1.1, 1.4))}
    assert warnings(verdict("a", a="PASS", b="FAIL"), entries) == []


@pytest.mark.parametrize(("allowed", "count"), [(4.9, 0), (5.0, 1), (5.9, 1), (6.0, 0)])
def test_the_limit_is_in_doubt_where_the_interval_of_p90_straddles_it(allowed: float, count: int) -> None:
    entries = {"a": timed((1.0, 1.2), (5.0, 6.0)), "b": timed((2.0, 2.2), (4.0, 9.0))}
    found = warnings(verdict("a", a="PASS", b="PASS"), entries, BenchmarkLimits(p90_ms=allowed))
    assert len(found) == count
    assert all(f"may be within {allowed:g} ms or not: its 95 % interval is 5 to 6 ms" in line for line in found)


def test_the_speedup_is_in_doubt_where_its_interval_holds_1() -> None:
    like = LikeForLike(reference="teacher.onnx", speedup=interval(0.9, 1.2))
    entries = {"a": timed((1.0, 1.2), speedup=interval(2.0, 3.0), like_for_like=like)}
    (line,) = warnings(verdict("a", a="PASS"), entries)
    assert "a may be no faster than teacher.onnx (1.05×, 0.90× to 1.20×)" in line
    assert "teacher.torch" not in line
    endless = Interval(value=1.5, low=0.0, high=sys.float_info.max)
    (line,) = warnings(verdict("a", a="PASS"), {"a": timed((1.0, 1.2), speedup=endless)})
    assert "no faster than teacher.torch (too few rounds for an interval)" in line
    slower = {"a": timed((1.0, 1.2), speedup=interval(0.5, 0.9))}
    assert warnings(verdict("a", a="PASS"), slower) == []


def test_nothing_to_deploy_and_nothing_timed_is_nothing_to_doubt() -> None:
    assert warnings(verdict(None), {"a": timed((1.0, 1.2))}) == []
    assert warnings(verdict("a", a="PASS"), {}) == []
