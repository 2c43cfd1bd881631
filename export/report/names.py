"""Tells runs apart that have the same name."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from export.benchmark import Benchmark


def told_apart(benchmarks: Sequence[Benchmark], folders: Sequence[Path]) -> list[Benchmark]:
    """The benchmarks. Runs of the same name get as many folders before it as tell them apart.

    Args:
        folders: of the runs, in the same order.
    """
    paths = [folder.resolve() for folder in folders]
    counts = Counter(benchmark.run for benchmark in benchmarks)
    return [
        benchmark
        if counts[benchmark.run] == 1
        else benchmark.model_copy(update={"run": _shortest(path, {other for other in paths if other != path})})
        for benchmark, path in zip(benchmarks, paths, strict=True)
    ]


def _shortest(path: Path, others: set[Path]) -> str:
    """The last parts of the path that no other one ends with."""
    ends = (path.parts[-count:] for count in range(1, len(path.parts)))
    return next(("/".join(end) for end in ends if all(other.parts[-len(end) :] != end for other in others)), str(path))
