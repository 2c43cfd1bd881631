"""The same files on the same machine by other programs' clocks: are the latencies of `compress benchmark` right?

In: a finished run with an export. Out: for each ONNX file and IR the p50 at batch 1 as `compress benchmark` times it,
and as another program does: OpenVINO's benchmark_app (`-api sync`, in its own process), and for ONNX Runtime, whose
onnxruntime_perf_test is in no package, Python's timeit in a process that imports onnxruntime and numpy alone. Ours and
theirs take turns, file by file, in rounds. The ratio is the median over rounds, with least and most.

    python tools/bench/other_clocks.py runs/NAME --threads 1
"""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import json_option, rounds_option, run, show, spread

from compress.runs.folder import Run
from compress.system.errors import InputError, MachineError
from export.benchmark.latency import Timed, interleave
from export.onnx import INPUT_NAME, open_session
from export.openvino import Execution, Session, installed, own_execution

_MEDIAN = re.compile(r"Median:\s+([\d.]+) ms")
_BENCHMARK_APP = "import sys; from openvino.tools.benchmark.main import main; sys.exit(main())"
_TIMEIT = """
import json, sys, timeit
import numpy as np, onnxruntime
path, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
entry = session.get_inputs()[0]
image = np.random.default_rng(0).standard_normal((1, *entry.shape[1:]), dtype=np.float32)
call = lambda: session.run(None, {entry.name: image})
one = timeit.timeit(call, number=20) / 20
print(json.dumps(1e3 * float(np.median(timeit.repeat(call, number=1, repeat=max(20, int(seconds / one)))))))
"""


def by_timeit(path: Path, threads: int, seconds: float) -> float:
    done = _ended([sys.executable, "-c", _TIMEIT, str(path), str(threads), str(seconds)])
    return float(json.loads(done))


def by_benchmark_app(path: Path, execution: Execution, threads: int, seconds: float, size: int) -> float:
    command = [sys.executable, "-c", _BENCHMARK_APP, "-m", str(path), "-d", "CPU", "-api", "sync"]
    command += ["-hint", "none", "-nstreams", "1", "-nthreads", str(threads), "-infer_precision", execution]
    command += ["-shape", f"[1,3,{size},{size}]", "-t", str(max(1, round(seconds))), "-inference_only"]
    found = _MEDIAN.search(_ended(command))
    if found is None:
        raise MachineError("benchmark_app says no median")
    return float(found[1])


def _ended(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MachineError(f"{command[1:3]} ended with {done.returncode}", *last)
    return done.stdout


def ours(call: Callable[[np.ndarray], object], size: int, seconds: float) -> float:
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
    series = interleave([Timed("file", lambda number: call(image))], min_seconds=seconds)
    return float(np.median(series["file"].ns)) / 1e6


def clocks(
    path: Path, execution: Execution | None, threads: int, seconds: float
) -> tuple[Callable[[], float], Callable[[], float]]:
    """Ours and theirs of one file: in OpenVINO where an execution is given, else in ONNX Runtime."""
    if execution is None:
        session = open_session(path, threads, stop_spinning=True)
        size = session.get_inputs()[0].shape[-1]
        return (
            lambda: ours(lambda image: session.run(None, {INPUT_NAME: image}), size, seconds),
            lambda: by_timeit(path, threads, seconds),
        )
    compiled = Session(path, threads, execution=execution)
    size = compiled.input_shape[-1]
    return (
        lambda: ours(compiled.run, size, seconds),
        lambda: by_benchmark_app(path, execution, threads, seconds, size),
    )


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="For each file and program in a round.")
@rounds_option(5)
@json_option
def main(folder: Path, threads: int, seconds: float, rounds: int, as_json: bool) -> None:
    """The files of the run in FOLDER, by our clock and by others."""
    export = Run(folder).export
    executions: list[Execution] = list(dict.fromkeys(("f32", own_execution()))) if installed() else []
    onnx = [path for path in (export / "student.onnx", export / "student.int8.onnx") if path.is_file()]
    irs = itertools.product(sorted(export.glob("openvino/*.xml")), executions)
    cases: list[tuple[Path, Execution | None]] = [*((path, None) for path in onnx), *irs]
    if not cases:
        raise InputError(f"no export in {folder}", "Make one with `compress export`.")
    rows: list[dict[str, Any]] = []
    for path, execution in cases:
        own, their = clocks(path, execution, threads, seconds)
        times = [(own(), their()) for _ in range(rounds)]
        rows.append(
            {
                "file": path.name,
                "runtime": "onnxruntime" if execution is None else f"openvino, {execution}",
                "ours_ms": round(float(np.median([mine for mine, _ in times])), 3),
                "theirs_ms": round(float(np.median([other for _, other in times])), 3),
                **spread("ratio", [mine / other for mine, other in times]),
            }
        )
    show({"threads": threads, "rows": rows}, map(_line, rows), as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    return (
        f"{row['file']:<20}{row['runtime']:<16}ours {row['ours_ms']:>8.3f} ms  theirs {row['theirs_ms']:>8.3f} ms  "
        f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    )


if __name__ == "__main__":
    run(main)
