"""What a benchmark says in sentences, in other words: for readers elsewhere, whom no path of this machine concerns."""

from collections.abc import Callable

from export.benchmark import Benchmark, CandidateResult, NotRun


def reworded(benchmark: Benchmark, words: Callable[[str], str]) -> Benchmark:
    """The benchmark with other warnings, and other reasons why something was not run.

    Args:
        words: makes the new sentence of the old one.
    """
    warnings = [words(warning) for warning in benchmark.warnings]
    candidates = [_reworded(candidate, words) for candidate in benchmark.candidates]
    return benchmark.model_copy(update={"warnings": warnings, "candidates": candidates})


def _reworded(candidate: CandidateResult, words: Callable[[str], str]) -> CandidateResult:
    parts = {name: getattr(candidate, name) for name in ("accuracy", "latency", "memory")}
    return candidate.model_copy(
        update={
            name: part.model_copy(update={"reason": words(part.reason)})
            for name, part in parts.items()
            if isinstance(part, NotRun)
        }
    )
