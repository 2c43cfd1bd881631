"""Latency that can be trusted: candidates take turns, so that drift of the machine hits them all alike.

In: named callables, each of which runs one batch. Out: every single time in nanoseconds, by round. No time is removed
for being long. A slice in which a candidate had to wait for a CPU that other work held is measured again.
"""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, quantile_test

from compress.system.platform import waited_ns
from export.statistics import CONFIDENCE, Range

MIN_SECONDS = 3.0
MIN_RUNS = 100
RUNS_FOR_P99 = 1000
MAX_SPREAD = 0.05
MAX_WAITING = 0.05
MAX_BUSY = 0.1
ROUNDS = 40
FEWEST_ROUNDS = 8  # below, the interval of a ratio has no ends
LONGEST = 4  # times the least time
WARMUP_NS = 200_000_000
SETTLE_NS = 10_000_000
RESAMPLES = 1000
AA_CONFIDENCE = 0.99

Call = Callable[[int], object]
"""Runs one batch; the number says which of the prepared inputs to take."""
Clock = Callable[[Call, int], int]
"""Runs the call once and returns its nanoseconds."""


def host_clock(call: Call, number: int) -> int:
    """Wall time of the call, with perf_counter_ns. The call must return only when its result is there."""
    start = time.perf_counter_ns()
    call(number)
    return time.perf_counter_ns() - start


def cuda_clock(stream: Any) -> Clock:
    """Time on the GPU between two events on `stream`, transfers left out. Not run on a GPU yet: only read and typed."""
    import torch

    def clock(call: Call, number: int) -> int:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        call(number)
        end.record(stream)
        end.synchronize()
        return round(begin.elapsed_time(end) * 1e6)

    return clock


class Watch:
    """Tells how long this process has waited for CPUs that other work held, since it was made."""

    def __init__(self) -> None:
        self.waited, self.cpu, self.start = waited_ns(), time.process_time_ns(), time.perf_counter_ns()

    def waiting(self) -> float:
        """The share of the time. Below a millisecond it is 0: no slice is that exact.

        Where the system does not tell, it is the time in which no thread computed. That misses what delays some of
        several threads, and counts a wait for a GPU.
        """
        wall = time.perf_counter_ns() - self.start
        now = waited_ns()
        idle = wall - (time.process_time_ns() - self.cpu)
        waited = idle if now is None or self.waited is None else now - self.waited
        return waited / wall if waited > 1_000_000 else 0.0


@dataclass(frozen=True)
class Timed:
    """What is measured, under a name of its own."""

    name: str
    call: Call
    clock: Clock = host_clock


@dataclass(frozen=True)
class Series:
    """The times of one candidate: int64 nanoseconds, one array for each round, in the order they were taken."""

    name: str
    rounds: list[NDArray[np.int64]]
    busy: float = 0.0
    """The share of rounds in which other work kept a CPU from a candidate, any of them, and that stayed so."""

    @property
    def contended(self) -> bool:
        """Whether other work disturbed more than a tenth of the rounds: what they say is of the machine, not of it."""
        return self.busy > MAX_BUSY

    @property
    def ns(self) -> NDArray[np.int64]:
        """All times, in the order they were taken."""
        return np.concatenate(self.rounds)


@dataclass(frozen=True)
class Summary:
    """Times in milliseconds with 95 % bootstrap intervals over rounds. `mad_ms`: median distance from the median.

    A median distance is not moved by a few outliers, which are no property of the candidate.
    """

    runs: int
    seconds: float
    p50_ms: Range
    p90_ms: Range
    p99_ms: Range | None
    early_stopping_p90_ms: float | None
    runs_per_s: Range
    mad_ms: float

    @property
    def noisy(self) -> bool:
        """Whether the median distance is more than 5 % of the median."""
        return self.mad_ms > MAX_SPREAD * self.p50_ms.value


def interleave(
    candidates: Sequence[Timed],
    *,
    min_seconds: float = MIN_SECONDS,
    min_runs: int = MIN_RUNS,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> dict[str, Series]:
    """Times every candidate, as one slice in each round.

    The order within a round is drawn anew. A slice starts with up to 10 ms of untimed runs, less if the measurement is
    short, to fill the caches that the previous candidate left. Python's garbage collector waits. Nothing is drawn on
    the screen, which would take time from a core. A slice in which a candidate waited for a CPU for more than a
    twentieth of the time is measured again at once, up to as many times for each candidate as there are rounds.

    Args:
        candidates: each under a name of its own.
        min_seconds: the least time for each candidate.
        min_runs: the fewest runs for each candidate, unless they take more than four times `min_seconds`: then
            there are fewer, in eight rounds at least.
        rounds: how many; fewer where there are fewer runs.
        seed: of the order.

    Returns:
        The times by name.
    """
    rounds = max(1, min(rounds, min_runs))
    generator = np.random.default_rng(seed)
    times: dict[str, list[NDArray[np.int64]]] = {candidate.name: [] for candidate in candidates}
    assert len(times) == len(candidates), "two candidates of one name"
    typical = {candidate.name: _warm_up(candidate, min_seconds) for candidate in candidates}
    longest_ns = LONGEST * min_seconds * 1e9 or math.inf
    affordable = int(min(longest_ns / max(typical.values()), rounds))
    rounds = max(affordable, min(rounds, FEWEST_ROUNDS))
    limits = (min_seconds * 1e9 / rounds, -(-min_runs // rounds), longest_ns / rounds)
    settle_ns, collecting = min(SETTLE_NS, min_seconds * 1e9 / 4), gc.isenabled()
    gc.disable()
    again, busy = dict.fromkeys(times, rounds), 0
    try:
        for _ in range(rounds):
            disturbed = False
            for place in generator.permutation(len(candidates)):
                candidate = candidates[place]
                _spend(candidate, settle_ns - typical[candidate.name])
                watch = Watch()
                spent = _slice(candidate, *limits)
                while (waited := watch.waiting() > MAX_WAITING) and again[candidate.name]:
                    again[candidate.name] -= 1
                    watch = Watch()
                    spent = _slice(candidate, *limits)
                disturbed |= waited
                times[candidate.name].append(spent)
            busy += disturbed
    finally:
        if collecting:
            gc.enable()
    return {name: Series(name, slices, busy / rounds) for name, slices in times.items()}


def _warm_up(candidate: Timed, min_seconds: float) -> float:
    """Runs for 0.2 s (less for a short measurement) and at least 3 times; the median time in nanoseconds."""
    spent = _spend(candidate, min(WARMUP_NS, min_seconds * 1e9 / 4), at_least=3)
    return float(np.median(spent))


def _spend(candidate: Timed, budget_ns: float, at_least: int = 0) -> list[int]:
    spent: list[int] = []
    while len(spent) < at_least or sum(spent) < budget_ns:
        spent.append(candidate.clock(candidate.call, len(spent)))
    return spent


def _slice(candidate: Timed, least_ns: float, least_runs: int, longest_ns: float) -> NDArray[np.int64]:
    clock, call = candidate.clock, candidate.call
    spent: list[int] = []
    total = 0
    while not spent or total < least_ns or (len(spent) < least_runs and total < longest_ns):
        spent.append(clock(call, len(spent)))
        total += spent[-1]
    return np.array(spent, dtype=np.int64)


def percentile(ordered: NDArray[np.int64], percent: int) -> int:
    """The nearest rank: the smallest of the sorted values that `percent` of them do not exceed."""
    return int(ordered[-(-len(ordered) * percent // 100) - 1])


def early_stopping_p90(ordered: NDArray[np.int64], confidence: float = 0.99) -> int | None:
    """MLPerf's single-stream 90th percentile: an upper bound that holds with 99 % confidence; None below 64 runs.

    Of n runs let t be the most that may exceed the true percentile: the largest t with Binomial(n, 0.1).cdf(t) <= 0.01.
    The t - 1 slowest are dropped and the slowest left is reported (MLPerf inference, loadgen/early_stopping.cc, d = 0).
    It takes runs to be independent, which neighbours in time are not quite.
    """
    n = len(ordered)
    allowed = np.arange(n + 1)
    passing = np.flatnonzero(binom.cdf(allowed, n, 0.1) <= 1 - confidence)
    if not len(passing) or passing[-1] < 1:
        return None
    return int(ordered[n - passing[-1]])


def summarise(series: Series, *, seed: int = 0) -> Summary:
    """Percentiles, throughput and spread. p99 only from 1,000 runs on: below, it is one of the ten slowest."""
    ns = series.ns
    order = np.argsort(ns, kind="stable")
    ordered = ns[order]
    percents = [50, 90] + ([99] if len(ns) >= RUNS_FOR_P99 else [])
    drawn = _bootstrap(series, order, percents, seed)
    ms = [
        Range(percentile(ordered, percent) / 1e6, *(np.quantile(values, _TAILS) / 1e6).tolist())
        for percent, values in zip(percents, drawn[:-1], strict=True)
    ]
    early = early_stopping_p90(ordered)
    return Summary(
        runs=len(ns),
        seconds=float(ns.sum()) / 1e9,
        p50_ms=ms[0],
        p90_ms=ms[1],
        p99_ms=ms[2] if len(ms) > 2 else None,
        early_stopping_p90_ms=None if early is None else early / 1e6,
        runs_per_s=Range(len(ns) / (float(ns.sum()) / 1e9), *np.quantile(drawn[-1], _TAILS).tolist()),
        mad_ms=float(np.median(np.abs(ns - np.median(ns)))) / 1e6,
    )


_TAILS = (0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2)


def _bootstrap(series: Series, order: NDArray[np.intp], percents: Sequence[int], seed: int) -> list[NDArray[Any]]:
    """Each percentile in nanoseconds, then runs a second, over whole rounds drawn with replacement.

    Rounds are drawn, not runs: runs of one slice share the machine's mood, and single draws would hide that.
    """
    generator = np.random.default_rng(seed)
    count = len(series.rounds)
    round_of_run = np.repeat(np.arange(count), [len(part) for part in series.rounds])[order]
    ordered = series.ns[order]
    runs = np.array([len(part) for part in series.rounds])
    spent = np.array([part.sum() for part in series.rounds])
    results = np.empty((len(percents) + 1, RESAMPLES))
    for number in range(RESAMPLES):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)
        reached = np.cumsum(weights[round_of_run])
        for place, percent in enumerate(percents):
            rank = -(-int(reached[-1]) * percent // 100)
            results[place, number] = ordered[np.searchsorted(reached, rank)]
        results[-1, number] = (weights @ runs) / ((weights @ spent) / 1e9)
    return list(results)


def ratio(slow: Series, fast: Series, confidence: float = CONFIDENCE) -> Range:
    """How many times longer `slow` takes: the median over rounds of the ratio of both medians, and its exact interval.

    What drifts over the rounds cancels within each. The interval is that of the sign test, made of order statistics
    (scipy.stats.quantile_test): it holds whatever the noise looks like. Below some eight rounds it has no ends.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(slow.rounds, fast.rounds, strict=True)])
    ends = quantile_test(ratios, p=0.5).confidence_interval(confidence)
    low = 0.0 if np.isnan(ends.low) else float(ends.low)
    high = float(np.finfo(np.float64).max) if np.isnan(ends.high) else float(ends.high)
    return Range(float(np.median(ratios)), low, high)


def differs(first: Series, second: Series) -> tuple[bool, Range]:
    """Whether two series differ, and their ratio with its 99 % interval: A/A runs must say no 19 times in 20."""
    measured = ratio(first, second, AA_CONFIDENCE)
    return not measured.low <= 1 <= measured.high, measured
