"""Measurement. In: a finished run and its files. Out: benchmark.json, with accuracy, latency, memory and a verdict."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.benchmark.candidates import find_candidates
    from export.benchmark.file import read_benchmark, write_benchmark
    from export.benchmark.measure import benchmark_run
    from export.benchmark.results import (
        AccuracyResult,
        Benchmark,
        CandidateResult,
        ClassChange,
        Comparison,
        Interval,
        Judgement,
        Latency,
        NotRun,
    )
    from export.benchmark.verdict import gate

__all__ = [
    "AccuracyResult",
    "Benchmark",
    "CandidateResult",
    "ClassChange",
    "Comparison",
    "Interval",
    "Judgement",
    "Latency",
    "NotRun",
    "benchmark_run",
    "find_candidates",
    "gate",
    "read_benchmark",
    "write_benchmark",
]

_HOMES = {
    **dict.fromkeys(__all__, "export.benchmark.results"),
    "find_candidates": "export.benchmark.candidates",
    "benchmark_run": "export.benchmark.measure",
    "gate": "export.benchmark.verdict",
    "read_benchmark": "export.benchmark.file",
    "write_benchmark": "export.benchmark.file",
}
__getattr__ = hand_on(__name__, _HOMES)
