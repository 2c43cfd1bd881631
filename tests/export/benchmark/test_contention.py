"""Other work beside a benchmark: rounds that it disturbs are measured again, or no factor of speed is told."""

import json
import subprocess
import sys

import numpy as np
import pytest

from compress.system.platform import waited_ns
from export.benchmark import latency
from export.benchmark.latency import ROUNDS, Series, Timed

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


def test_rounds_that_other_work_disturbed_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    series, slices = timed_with(5, monkeypatch)
    assert len(series.rounds) == ROUNDS
    assert slices == ROUNDS + 5
    assert series.busy == 0
    assert not series.contended


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
