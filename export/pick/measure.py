"""Times architectures in turns on this machine, some at once.

In: timm names, runtimes and a budget. Out: a Measured of each. What is far from the budget is timed briefly.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from compress.system.console import duration
from compress.system.errors import CompressError, MachineError, first_line, is_of_the_machine
from export.benchmark import latency
from export.benchmark.latency import Series, Timed
from export.onnx import INPUT_NAME, OUTPUT_NAME, open_session
from export.openvino import Execution, Session, own_execution
from export.pick.cache import Cache
from export.pick.graphs import Graphs, make_graphs
from export.pick.records import BRIEF, LONG, Effort, Measured, PrecisionName, RuntimeName, Timing, near

logger = logging.getLogger(__name__)

TOGETHER = 6
"""Architectures that take turns: more hold too much memory."""
_INPUTS = 4


@dataclass(frozen=True)
class _Candidate:
    model: str
    runtime: RuntimeName
    precision: PrecisionName
    graph: Literal["ort", "trt"] | None
    path: Path

    @property
    def key(self) -> str:
        return f"{self.model} {self.runtime} {self.precision} {self.graph}"


def measure(
    names: Sequence[str],
    runtimes: Sequence[RuntimeName],
    cache: Cache,
    *,
    p90_ms: float,
    efforts: tuple[Effort, Effort] = (BRIEF, LONG),
) -> None:
    """Measures what the cache lacks of these architectures, and adds it.

    Args:
        names: timm's, without tags.
        p90_ms: the budget.
        efforts: for what is far from the budget, and for what is near.

    Raises:
        MachineError: memory or space was too small, or the cache cannot be written. What was measured before is in it.
    """
    began = time.perf_counter()
    for start in range(0, len(names), TOGETHER):
        group = names[start : start + TOGETHER]
        cache.add(_measure_group(group, runtimes, cache, p90_ms, efforts))
        done = start + len(group)
        spent = time.perf_counter() - began
        left = f", about {duration(spent / done * (len(names) - done))} left" if done < len(names) else ""
        logger.info(f"timed {done} of {len(names)} models{left}")


def _measure_group(
    group: Sequence[str],
    runtimes: Sequence[RuntimeName],
    cache: Cache,
    p90_ms: float,
    efforts: tuple[Effort, Effort],
) -> dict[str, Measured]:
    known = cache.read()
    found: dict[str, Measured] = {}
    asked: dict[str, list[RuntimeName]] = {}
    candidates: list[_Candidate] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in group:
            try:
                graphs = make_graphs(name, Path(folder), image_size=cache.image_size, threads=cache.threads)
            except MachineError:
                raise
            except CompressError as error:
                logger.warning(f"{name} is left out: {error}")
                found[name] = Measured(error=str(error))
                continue
            found[name] = Measured(
                macs_m=graphs.macs_m,
                int8_convs=graphs.int8_convs,
                float_convs=graphs.float_convs,
                timings=known[name].timings if name in known else [],
                refused=known[name].refused if name in known else [],
            )
            missing: list[RuntimeName] = [one for one in runtimes if found[name].lacks(one, p90_ms)]
            kept = [timing for timing in found[name].timings if timing.runtime not in missing]
            found[name] = found[name].model_copy(update={"timings": kept})
            asked[name] = missing
            candidates += _candidates(name, graphs, missing)
        for candidate, timing in _times(candidates, cache, p90_ms, efforts):
            before = found[candidate.model]
            found[candidate.model] = before.model_copy(update={"timings": [*before.timings, timing]})
    for name, runtimes_of in asked.items():
        timed = {timing.runtime for timing in found[name].timings}
        refused = [*found[name].refused, *(one for one in runtimes_of if one not in timed)]
        found[name] = found[name].model_copy(update={"refused": refused})
    return found


def _candidates(name: str, graphs: Graphs, runtimes: Sequence[RuntimeName]) -> Iterator[_Candidate]:
    """OpenVINO reads both INT8 graphs, and which is faster differs. ONNX Runtime is slow with that for TensorRT."""
    if "onnxruntime" in runtimes:
        yield _Candidate(name, "onnxruntime", "fp32", None, graphs.fp32)
        yield _Candidate(name, "onnxruntime", "int8", "ort", graphs.int8["ort"])
    if "openvino" in runtimes:
        yield _Candidate(name, "openvino", "fp32", None, graphs.fp32)
        if own_execution() == "bf16":
            yield _Candidate(name, "openvino", "bf16", None, graphs.fp32)
        for target, path in graphs.int8.items():
            yield _Candidate(name, "openvino", "int8", target, path)


def _times(
    candidates: Sequence[_Candidate], cache: Cache, p90_ms: float, efforts: tuple[Effort, Effort]
) -> Iterator[tuple[_Candidate, Timing]]:
    shape = (_INPUTS, cache.batch, 3, cache.image_size, cache.image_size)
    inputs = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    calls = {one.key: Timed(one.key, call) for one in candidates if (call := _call(one, cache.threads, inputs))}
    brief, long = efforts
    series = _interleaved(list(calls.values()), brief)
    p90 = {key: latency.percentile(np.sort(taken.ns), 90) / 1e6 for key, taken in series.items()}
    longer = _interleaved([calls[key] for key in series if near(p90[key], p90_ms)], long)
    for key, taken in longer.items():
        series[key] = Series(key, [*series[key].rounds, *taken.rounds], max(series[key].busy, taken.busy))
    for one in candidates:
        if one.key in series:
            yield one, _timing(one, series[one.key], long=one.key in longer)


def _interleaved(calls: list[Timed], effort: Effort) -> dict[str, Series]:
    if not calls:
        return {}
    return latency.interleave(calls, min_seconds=effort.seconds, min_runs=effort.runs, rounds=effort.rounds)


def _call(candidate: _Candidate, threads: int, inputs: np.ndarray) -> Callable[[int], object] | None:
    """None, with a warning, where the runtime does not run the file. Raises MachineError for what may pass."""
    try:
        call = _opened(candidate, threads, inputs)
        call(0)
    except Exception as error:
        if is_of_the_machine(error):
            raise MachineError(
                f"{candidate.model} in {candidate.precision} could not be run in {candidate.runtime} here "
                f"({first_line(error)})",
                "Free memory or space, or name other models with --model.",
            ) from error
        why = error.message if isinstance(error, CompressError) else first_line(error)
        logger.warning(f"{candidate.model} in {candidate.precision} is left out for {candidate.runtime}: {why}")
        return None
    return call


def _opened(candidate: _Candidate, threads: int, inputs: np.ndarray) -> Callable[[int], object]:
    if candidate.runtime == "openvino":
        execution: Execution = "bf16" if candidate.precision == "bf16" else "f32"
        compiled = Session(candidate.path, threads, execution=execution)
        return lambda number: compiled.run(inputs[number % len(inputs)])
    session = open_session(candidate.path, threads, stop_spinning=True)
    return lambda number: session.run([OUTPUT_NAME], {INPUT_NAME: inputs[number % len(inputs)]})


def _timing(candidate: _Candidate, series: Series, *, long: bool) -> Timing:
    own = latency.summarise(series)
    return Timing(
        runtime=candidate.runtime,
        precision=candidate.precision,
        graph=candidate.graph,
        runs=own.runs,
        p50_ms=round(own.p50_ms.value, 4),
        p90_ms=round(own.p90_ms.value, 4),
        p90_low=round(own.p90_ms.low, 4),
        p90_high=round(own.p90_ms.high, 4),
        contended=series.contended,
        long=long,
        size_mb=round(candidate.path.stat().st_size / 1e6, 2),
    )
