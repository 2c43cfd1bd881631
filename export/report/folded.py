"""Which candidates get a row of the table, and one line for each reason why others have none.

In: a Benchmark. Out: candidates, and reasons with names.
"""

from export.benchmark import Benchmark, CandidateResult, NotRun
from export.report.formats import percent, scored, timed

Folded = list[tuple[str, list[str]]]
"""Reasons, each with names."""


def with_a_row(benchmark: Benchmark) -> list[CandidateResult]:
    """What was timed, and what is recommended. Where nothing was timed, what was scored."""
    if not any(timed(candidate) for candidate in benchmark.candidates):
        return [candidate for candidate in benchmark.candidates if scored(candidate)]
    best = benchmark.verdict.recommended
    return [candidate for candidate in benchmark.candidates if timed(candidate) or candidate.name == best]


def not_run(benchmark: Benchmark) -> Folded:
    """Why candidates were neither scored nor timed."""
    found: dict[str, list[str]] = {}
    for candidate in benchmark.candidates:
        if isinstance(candidate.accuracy, NotRun) and isinstance(candidate.latency, NotRun):
            found.setdefault(candidate.accuracy.reason, []).append(candidate.name)
    return list(found.items())


def not_timed(benchmark: Benchmark) -> Folded:
    """Why candidates were scored and not timed, with what they score."""
    found: dict[str, list[str]] = {}
    for candidate in benchmark.candidates:
        if isinstance(candidate.latency, NotRun) and not isinstance(candidate.accuracy, NotRun):
            proxy = ", proxy" if candidate.accuracy.source == "proxy" else ""
            named = f"{candidate.name} (top-1 {percent(candidate.accuracy.top1.value)}{proxy})"
            found.setdefault(candidate.latency.reason, []).append(named)
    return list(found.items())
