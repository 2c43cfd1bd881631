"""ONNX Runtime's session options, one changed at a time against those that this project uses: is there a faster set?

In: ONNX files with input "input". Out: for each option the default's time over the option's (above 1: the option is
faster), the median over rounds in which all take turns, with the 95 % interval of the sign test.

    python tools/bench/session_options.py runs/NAME/export/student.onnx runs/NAME/export/student.int8.onnx --threads 1
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import onnxruntime as ort
from harness import json_option, run, show

from export.benchmark.latency import Timed, interleave, ratio

Change = Callable[[ort.SessionOptions], object]


def _entry(key: str, value: str) -> Change:
    return lambda options: options.add_session_config_entry(key, value)


def _set(name: str, value: object) -> Change:
    return lambda options: setattr(options, name, value)


LEVELS = ort.GraphOptimizationLevel
CHANGES: dict[str, Change] = {
    "as it is": lambda options: None,
    "as it is, again": lambda options: None,
    "no spinning": _entry("session.intra_op.allow_spinning", "0"),
    "no memory arena": _set("enable_cpu_mem_arena", False),
    "no memory pattern": _set("enable_mem_pattern", False),
    "graph optimisation: none": _set("graph_optimization_level", LEVELS.ORT_DISABLE_ALL),
    "graph optimisation: basic": _set("graph_optimization_level", LEVELS.ORT_ENABLE_BASIC),
    "graph optimisation: extended": _set("graph_optimization_level", LEVELS.ORT_ENABLE_EXTENDED),
    "no prepacking": _entry("session.disable_prepacking", "1"),
    "denormals are zero": _entry("session.set_denormal_as_zero", "1"),
    "parallel execution": _set("execution_mode", ort.ExecutionMode.ORT_PARALLEL),
}


def session(path: Path, threads: int, change: Change) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    change(options)
    return ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])


def timed(name: str, opened: ort.InferenceSession, inputs: np.ndarray) -> Timed:
    return Timed(name, lambda number: opened.run(None, {"input": inputs}))


def bound(opened: ort.InferenceSession, inputs: np.ndarray) -> Timed:
    binding = opened.io_binding()
    binding.bind_cpu_input("input", inputs)
    binding.bind_output("logits")
    return Timed("bound inputs and outputs", lambda number: opened.run_with_iobinding(binding))


@click.command()
@click.argument("files", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="For each option.")
@json_option
def main(files: tuple[Path, ...], batch: int, threads: int, seconds: float, as_json: bool) -> None:
    """Whether other session options are faster than those of this project."""
    rows = []
    for path in files:
        sessions = {name: session(path, threads, change) for name, change in CHANGES.items()}
        shape = [size if isinstance(size, int) else batch for size in sessions["as it is"].get_inputs()[0].shape]
        inputs = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        candidates = [timed(name, opened, inputs) for name, opened in sessions.items()]
        series = interleave([*candidates, bound(sessions["as it is"], inputs)], min_seconds=seconds)
        base = series["as it is"]
        for name, found in series.items():
            measured = ratio(base, found)
            rows.append(
                {
                    "file": path.name,
                    "option": name,
                    "p50_ms": round(float(np.median(found.ns)) / 1e6, 4),
                    "times_as_fast": round(measured.value, 3),
                    "low": round(measured.low, 3),
                    "high": round(measured.high, 3),
                }
            )
    lines = [
        f"{row['file']:<22}{row['option']:<32}{row['p50_ms']:>9.3f} ms  "
        f"{row['times_as_fast']:.3f}  ({row['low']:.3f} to {row['high']:.3f})"
        for row in rows
    ]
    show({"setting": f"batch {batch}, {threads} threads", "rows": rows}, lines, as_json=as_json)


if __name__ == "__main__":
    run(main)
