"""The timing loop on simulated machines whose clock we own, and once on this one, where no time is asserted."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from export.benchmark import latency
from export.benchmark.latency import Series, Timed


class Machine:
    """A machine with realistic noise: a slow drift, bursts of other work that last, spikes, and jitter."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.now_ns = 0.0
        self.phase = self.generator.uniform(0, 2 * math.pi)
        self.burst_until = 0.0

    def clock(self, typical_ns: float) -> Callable[[latency.Call, int], int]:
        def run(call: latency.Call, number: int) -> int:
            draw = self.generator
            if self.now_ns > self.burst_until and draw.random() < 0.002:
                self.burst_until = self.now_ns + draw.exponential(5e7)
            drift = 1 + 0.15 * math.sin(self.phase + self.now_ns / 1e9)
            busy = 1.6 if self.now_ns < self.burst_until else 1.0
            spike = draw.exponential(5 * typical_ns) if draw.random() < 0.01 else 0.0
            took = typical_ns * drift * busy * draw.lognormal(0, 0.04) + spike
            self.now_ns += took
            return round(took)

        return run


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated candidates never wait for a CPU, whatever else runs beside these tests."""
    monkeypatch.setattr(latency, "waited_ns", lambda: 0)


def simulate(seed: int, *typical_ns: float, seconds: float = 0.5) -> list[Series]:
    machine = Machine(seed)
    timed = [Timed(str(place), lambda number: None, machine.clock(ns)) for place, ns in enumerate(typical_ns)]
    return list(latency.interleave(timed, min_seconds=seconds, min_runs=100, seed=seed).values())


def test_a_model_against_itself_shows_no_difference_19_times_in_20() -> None:
    differing = sum(latency.differs(*simulate(seed, 1e6, 1e6))[0] for seed in range(200))
    assert differing <= 10


def test_a_model_that_is_slower_by_a_tenth_is_told_apart() -> None:
    found = [latency.differs(*simulate(seed, 1.1e6, 1e6)) for seed in range(20)]
    assert sum(differs for differs, _ in found) >= 19
    assert np.median([ratio.value for _, ratio in found]) == pytest.approx(1.1, abs=0.02)


def test_without_turns_drift_is_taken_for_a_difference() -> None:
    wrong = 0
    for seed in range(20):
        machine = Machine(seed)
        one_by_one = [
            latency.interleave([Timed("a", lambda number: None, machine.clock(1e6))], min_seconds=0.5)["a"]
            for _ in range(2)
        ]
        wrong += latency.differs(*one_by_one)[0]
    assert wrong > 10


def test_every_candidate_gets_both_its_time_and_its_runs_and_nothing_is_removed() -> None:
    taken: dict[str, list[int]] = {"fast": [], "slow": []}

    def clock(name: str, ns: int) -> latency.Clock:
        def run(call: latency.Call, number: int) -> int:
            spike = 10**9 if len(taken[name]) == 5000 else 0
            taken[name].append(ns + spike)
            return ns + spike

        return run

    timed = [Timed(name, lambda number: None, clock(name, ns)) for name, ns in (("fast", 10**5), ("slow", 3 * 10**7))]
    series = latency.interleave(timed, min_seconds=1, min_runs=100)
    for entry in series.values():
        assert entry.ns.sum() >= 1e9
        assert len(entry.ns) >= 100
        assert len(entry.rounds) == latency.ROUNDS
        assert min(map(len, entry.rounds)) > 0
    assert series["fast"].ns.max() == 10**9 + 10**5
    # Warm-up and the runs after a switch are the only ones that do not count.
    assert len(taken["slow"]) == len(series["slow"].ns) + 7


@pytest.mark.parametrize(("ms", "rounds", "runs"), [(50, 40, 80), (200, 20, 20), (2000, 8, 8)])
def test_slow_candidates_get_fewer_runs_in_four_times_the_time(ms: int, rounds: int, runs: int) -> None:
    timed = [Timed("slow", lambda number: None, lambda call, number: ms * 10**6)]
    series = latency.interleave(timed, min_seconds=1, min_runs=100)["slow"]
    assert (len(series.rounds), len(series.ns)) == (rounds, runs)


def test_the_order_within_a_round_changes() -> None:
    order: list[str] = []

    def clock(name: str) -> latency.Clock:
        def run(call: latency.Call, number: int) -> int:
            order.append(name)
            return 10**8

        return run

    latency.interleave([Timed(name, lambda number: None, clock(name)) for name in "ab"], min_seconds=0, min_runs=40)
    rounds = ["".join(order[start : start + 2]) for start in range(6, len(order), 2)]
    assert set(rounds) == {"ab", "ba"}


@pytest.mark.parametrize("n", [1, 9, 10, 11, 99, 100, 1001])
@pytest.mark.parametrize("percent", [50, 90, 99])
def test_percentiles_are_nearest_ranks(n: int, percent: int) -> None:
    ordered = np.sort(np.random.default_rng(n).integers(1, 10**9, n))
    assert latency.percentile(ordered, percent) == np.quantile(ordered, percent / 100, method="inverted_cdf")


@pytest.mark.parametrize("n", [64, 100, 237])
def test_early_stopping_drops_what_the_binomial_allows(n: int) -> None:
    def chance_of_at_most(t: int) -> float:
        return sum(math.comb(n, k) * 0.1**k * 0.9 ** (n - k) for k in range(t + 1))

    allowed = max(t for t in range(n) if chance_of_at_most(t) <= 0.01)
    assert latency.early_stopping_p90(np.arange(n)) == n - allowed


def test_early_stopping_needs_mlperfs_64_runs_and_lies_above_the_plain_percentile() -> None:
    assert latency.early_stopping_p90(np.arange(63)) is None
    assert latency.early_stopping_p90(np.arange(64)) == 63
    ordered = np.arange(10_000)
    early = latency.early_stopping_p90(ordered)
    assert early is not None
    assert latency.percentile(ordered, 90) < early < latency.percentile(ordered, 92)


def test_p99_appears_from_a_thousand_runs_on() -> None:
    generator = np.random.default_rng(0)

    def series(runs: int) -> Series:
        return Series("a", np.split(generator.integers(900, 1100, runs), 9))

    assert latency.summarise(series(999)).p99_ms is None
    assert latency.summarise(series(1008)).p99_ms is not None


def test_intervals_hold_the_true_percentile_although_the_rounds_differ() -> None:
    generator = np.random.default_rng(3)
    covered = {"p50": 0, "p90": 0, "rate": 0}
    for _ in range(100):
        moods = generator.normal(0, 0.05, latency.ROUNDS)
        rounds = [(1e6 * np.exp(generator.normal(mood, 0.05, 50))).astype(np.int64) for mood in moods]
        found = latency.summarise(Series("a", rounds))
        spread = 0.05 * 2**0.5
        covered["p50"] += found.p50_ms.low <= 1 <= found.p50_ms.high
        covered["p90"] += found.p90_ms.low <= math.exp(1.2816 * spread) <= found.p90_ms.high
        covered["rate"] += found.runs_per_s.low <= 1000 / math.exp(spread**2 / 2) <= found.runs_per_s.high
    assert min(covered.values()) >= 86, covered


def test_a_spread_above_five_percent_is_called_noisy_and_a_few_outliers_are_not() -> None:
    steady, shaky = (Series("a", [np.array([96 - x, 100, 104 + x])] * 10) for x in (0, 2))
    assert not latency.summarise(steady).noisy
    assert latency.summarise(shaky).noisy
    times = np.concatenate([np.full(95, 100), np.full(5, 10_000)])
    found = latency.summarise(Series("a", [times] * 10))
    assert found.mad_ms * 1e6 == median_abs_deviation(times) == 0
    assert not found.noisy


def test_few_rounds_give_a_ratio_without_ends() -> None:
    series = Series("a", [np.array([100]), np.array([200])])
    value, low, high = latency.ratio(series, series)
    assert (value, low) == (1.0, 0.0)
    assert high > 1e300


def test_a_real_model_against_itself_on_this_machine() -> None:
    matrix = np.random.default_rng(0).standard_normal((64, 64))
    timed = [Timed(name, lambda number: matrix @ matrix) for name in ("a", "again")]
    series = latency.interleave(timed, min_seconds=0.05, min_runs=80)
    summary = latency.summarise(series["a"])
    assert summary.runs >= 80
    assert 0 < summary.p50_ms.low <= summary.p50_ms.value <= summary.p90_ms.value
    assert latency.differs(series["a"], series["again"])[1].value > 0
