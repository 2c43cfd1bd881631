"""Noise of latency that could change what a benchmark says: one line for each thing in doubt, none for a model.

In: what was timed and the verdict. Out: sentences for people. A few outliers and a wide spread alone change nothing.
"""

from collections.abc import Mapping

from compress.recipe import BenchmarkLimits
from export.benchmark.results import TOO_FEW_ROUNDS, Interval, Latency, Reference, Verdict

_LONGER = "measure longer (--seconds)"


def noise_warnings(
    verdict: Verdict, timed: Mapping[str, Latency], limits: BenchmarkLimits, reference: Reference
) -> list[str]:
    """What noise leaves open of the recommended file: whether it is the fastest, within p90_ms, faster than others.

    Args:
        verdict: on the files that could be deployed.
        timed: the model alone at the smallest batch, by candidate.
        limits: of the recipe.
        reference: what `Latency.speedup` is over.
    """
    if verdict.recommended is None or (own := timed.get(verdict.recommended)) is None:
        return []
    found = [_rivals(verdict, timed), _limit(verdict.recommended, own, limits.p90_ms), _speed(verdict, own, reference)]
    return [line for line in found if line]


def _rivals(verdict: Verdict, timed: Mapping[str, Latency]) -> str:
    """Files of the same outcome whose median may be the lower one."""
    best = verdict.recommended
    assert best is not None
    own = timed[best].p50_ms
    names = [
        name
        for name, outcome in verdict.by_file.items()
        if name != best and outcome == verdict.by_file[best] and name in timed and _overlap(own, timed[name].p50_ms)
    ]
    if not names:
        return ""
    return (
        f"As fast as {best} within noise: {', '.join(names)} (the 95 % intervals of p50 overlap). Choose among them by "
        f"accuracy, size or runtime, or {_LONGER}."
    )


def _limit(name: str, own: Latency, allowed: float | None) -> str:
    p90 = own.p90_ms
    if allowed is None or own.batch != 1 or not p90.low <= allowed < p90.high:
        return ""
    return (
        f"The p90 of {name} may be within {allowed:g} ms or not: its 95 % interval is {p90.low:.3g} to {p90.high:.3g} "
        f"ms. To decide, {_LONGER}."
    )


def _speed(verdict: Verdict, own: Latency, reference: Reference) -> str:
    """Against the teacher's own file first, as the report does."""
    like = own.like_for_like
    factors = [(like.reference, like.speedup)] if like else []
    factors += [(reference, own.speedup)] if own.speedup else []
    doubtful = [f"{name} ({_factor(factor)})" for name, factor in factors if factor.low <= 1 <= factor.high]
    if not doubtful:
        return ""
    return (
        f"{verdict.recommended} may be no faster than {' and '.join(doubtful)}: the 95 % interval of the speedup "
        f"holds 1. To decide, {_LONGER}."
    )


def _factor(speedup: Interval) -> str:
    if not speedup.has_ends:
        return TOO_FEW_ROUNDS
    return f"{speedup.value:.2f}×, {speedup.low:.2f}× to {speedup.high:.2f}×"


def _overlap(first: Interval, second: Interval) -> bool:
    return first.low <= second.high and second.low <= first.high
