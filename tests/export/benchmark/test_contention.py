"""Other work beside a benchmark: slices that it disturbs are measured again, or no factor of speed is told."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compress.runs.folder import Run
from compress.system.platform import waited_ns
from export import benchmark_run, report_runs
from export.benchmark import Benchmark, NotRun, latency, summary
from export.benchmark.latency import ROUNDS, Series, Timed
from tests.helpers.benchmarked import benchmarked

PINNED = """
import json, os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if sys.argv[1] == "loop":
    print("ready", flush=True)
    while True:
        pass
from export.benchmark.latency import Timed, interleave
work = lambda number: sum(range(20_000))
series = interleave([Timed("a", work), Timed("b", work)], min_seconds=0.4, min_runs=8, rounds=8)
print(json.dumps({name: [entry.busy, entry.contended] for name, entry in series.items()}))
"""


class Waiting:
    """Stands for the system's counter: in each of the first `disturbed` slices it counts two milliseconds."""

    def __init__(self, disturbed: int) -> None:
        self.calls, self.disturbed = 0, disturbed

    def __call__(self) -> int:
        self.calls += 1
        return 2_000_000 * min(self.calls // 2, self.disturbed)


def timed_with(disturbed: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Series, int]:
    slices = 0

    def clock(call: latency.Call, number: int) -> int:
        nonlocal slices
        slices += 1
        return 10**8

    monkeypatch.setattr(latency, "waited_ns", Waiting(disturbed))
    series = latency.interleave([Timed("a", lambda number: None, clock)], min_seconds=0, min_runs=ROUNDS)["a"]
    return series, slices - 3  # after warm-up


def test_slices_that_other_work_disturbed_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    series, slices = timed_with(5, monkeypatch)
    assert len(series.rounds) == ROUNDS
    assert slices == ROUNDS + 5
    assert series.busy == 0
    assert not series.contended


def test_what_was_not_disturbed_in_that_round_is_not_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many candidates one is always disturbed: to measure all of them again would double the time."""
    slices, waited = {"calm": 0, "disturbed": 0}, 0

    def timed(name: str) -> Timed:
        def clock(call: latency.Call, number: int) -> int:
            nonlocal waited
            slices[name] += 1
            waited += 2_000_000 * (name == "disturbed" and 3 < slices[name] <= 8)
            return 10**8

        return Timed(name, lambda number: None, clock)

    monkeypatch.setattr(latency, "waited_ns", lambda: waited)
    found = latency.interleave([timed("calm"), timed("disturbed")], min_seconds=0, min_runs=ROUNDS)
    assert {name: count - 3 for name, count in slices.items()} == {"calm": ROUNDS, "disturbed": ROUNDS + 5}
    assert {len(series.rounds) for series in found.values()} == {ROUNDS}
    assert {series.busy for series in found.values()} == {0}


def test_a_machine_that_stays_busy_is_said_and_ends_in_twice_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    series, slices = timed_with(10**6, monkeypatch)
    assert slices == 2 * ROUNDS
    assert series.busy == 1
    assert series.contended


def test_a_few_late_disturbances_do_not_contend(monkeypatch: pytest.MonkeyPatch) -> None:
    series, _ = timed_with(ROUNDS + 4, monkeypatch)
    assert series.busy == 4 / ROUNDS
    assert not series.contended
    assert not Series("a", [np.array([1])], busy=0.1).contended


@pytest.fixture
def measured(
    finished: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[], int]], tuple[Benchmark, list[str]]]:
    """What a benchmark and its report say where the system counts that long a wait for CPUs."""
    run = Run(tmp_path / "run")
    shutil.copytree(benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")[0].path, run.path)
    limits = ["benchmark.price_per_hour=1", "benchmark.max_top1_drop=1.0", "benchmark.p90_ms=1.0e-6"]

    def measure(waited: Callable[[], int]) -> tuple[Benchmark, list[str]]:
        monkeypatch.setattr(latency, "waited_ns", waited)
        monkeypatch.setattr(summary, "peak_memory", lambda *args, **named: NotRun(reason="not wanted"))
        found = benchmark_run(
            run, runtimes=("torch", "ort"), batches=(1,), threads=(1,), min_seconds=0.01, min_runs=8, overrides=limits
        )
        return found, [path.read_text() for path in report_runs([run, run], tmp_path / "page.html")]

    return measure


@pytest.mark.slow
def test_under_load_no_ratio_is_told_and_no_latency_fails(
    measured: Callable[[Callable[[], int]], tuple[Benchmark, list[str]]],
) -> None:
    counter = itertools.count(0, 10**10)
    found, texts = measured(lambda: next(counter))
    timed = [
        entry for candidate in found.candidates if isinstance(candidate.latency, list) for entry in candidate.latency
    ]
    assert timed
    assert all(entry.busy == 1 and entry.speedup is None and entry.like_for_like is None for entry in timed)
    (warning,) = [warning for warning in found.warnings if "Other work" in warning]
    assert "in up to 100 % of the rounds" in warning
    (judgement,) = [judgement for judgement in found.verdict.judgements if judgement.limit == "p90_ms"]
    assert (judgement.outcome, found.verdict.outcome) == ("UNDECIDED", "UNDECIDED")
    assert judgement.note == "Other work held the CPUs: on a quiet machine it may pass."
    for text in texts:
        assert not re.search(r"\d× (faster|slower|cheaper)|for a million images", text)
        assert "cost withheld" in text
        assert "speed withheld" in text
        assert "other work held the CPUs: measure again on a quiet machine" in text
        assert "not timed with" not in text


@pytest.mark.slow
def test_on_a_quiet_machine_ratios_are_told_and_a_latency_fails(
    measured: Callable[[Callable[[], int]], tuple[Benchmark, list[str]]],
) -> None:
    found, texts = measured(lambda: 0)
    assert not [warning for warning in found.warnings if "Other work" in warning]
    assert found.verdict.outcome == "FAIL"
    for text in texts:
        assert re.search(r"\d× cheaper", text)
        assert "for a million images" in text
        assert "speed withheld" not in text


@pytest.mark.skipif(waited_ns() is None, reason="only Linux tells how long a process waited for a CPU")
def test_a_busy_loop_on_the_same_cpu_is_found() -> None:
    command = [sys.executable, "-c", PINNED]
    with subprocess.Popen([*command, "loop"], stdout=subprocess.PIPE) as loop:
        try:
            assert loop.stdout is not None
            assert loop.stdout.readline() == b"ready\n"
            done = subprocess.run([*command, "measure"], capture_output=True, check=True)
        finally:
            loop.kill()
    found = json.loads(done.stdout)
    assert all(contended for _, contended in found.values()), found
