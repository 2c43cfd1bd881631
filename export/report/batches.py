"""Latency and throughput at each batch, of every candidate that was timed. In: a Benchmark. Out: rows of a table."""

import math
from dataclasses import dataclass

from export.benchmark import Benchmark, Latency, NotRun

RUNS_FOR_P99 = 1000


@dataclass(frozen=True)
class BatchRow:
    """One candidate at one batch, with the first number of threads.

    Attributes:
        name: of the candidate.
        model: the model alone, which the percentiles are of.
        end_to_end: from uint8 pixels, which the throughput is of.
        cost: of a million images, in the currency of benchmark.price_per_hour. None where that is not set, or where
            other work disturbed the throughput.
    """

    name: str
    model: Latency
    end_to_end: Latency
    cost: float | None


def batch_rows(benchmark: Benchmark) -> list[BatchRow]:
    """The rows, in the order of the candidates, the smallest batch first."""
    price = benchmark.settings.limits.get("price_per_hour")
    rows = []
    for candidate in benchmark.candidates:
        if isinstance(candidate.latency, NotRun):
            continue
        found = {(e.batch, e.scope): e for e in candidate.latency if e.threads == benchmark.settings.threads[0]}
        for batch in benchmark.settings.batches:
            model, ends = found.get((batch, "model")), found.get((batch, "end-to-end"))
            if model is None or ends is None:  # it failed at that batch
                continue
            cost = price / 3600 * 1e6 / ends.images_per_s.value if price and not ends.contended else None
            rows.append(BatchRow(candidate.name, model, ends, cost))
    return rows


def p99_note(benchmark: Benchmark, rows: list[BatchRow]) -> str:
    """Why p99 is missing, where it is, and what gives it; empty where no row lacks it."""
    if all(row.model.p99_ms is not None for row in rows):
        return ""
    needs = f"p99 needs {RUNS_FOR_P99:,} runs: below, it is one of the ten slowest."
    chosen = next((row for row in rows if row.name == benchmark.verdict.recommended), rows[0])
    if chosen.model.p99_ms is not None:
        return f"{needs} Rows without it had fewer."
    entry = chosen.model
    seconds = math.ceil(1.1 * RUNS_FOR_P99 * entry.seconds / entry.runs)  # a tenth more, for a slower day
    return (
        f"{needs} {chosen.name} had {entry.runs:,} at batch {entry.batch}; `compress benchmark --seconds {seconds}` "
        "gives it enough."
    )
