"""The same files on the same machine by other programs' clocks: are the latencies of `compress benchmark` right?

In: a finished run with an export. Out: for each ONNX file and IR the p50 at batch 1 as `compress benchmark` times it,
and by Python's timeit in a process that imports numpy and the runtime alone. Ours and theirs take turns, file by file,
in rounds; the ratio is the median over rounds, with least and most. For OpenVINO also the median of its benchmark_app
(`-api sync`): that is the time inside the library, without the call from Python and the copies of input and output.
onnxruntime_perf_test is in no package.

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
_IN_ORT = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
call = lambda: session.run(None, {session.get_inputs()[0].name: image})
"""
_IN_OPENVINO = """
import openvino
core = openvino.Core()
model = core.read_model(path)
model.reshape(list(image.shape))
options = {"NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": sys.argv[5]}
request = core.compile_model(model, "CPU", options).create_infer_request()
call = lambda: request.infer([image])[0]
"""
_TIMEIT = """
import json, sys, timeit
import numpy as np
path, threads, seconds, size = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
image = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
{opened}
one = timeit.timeit(call, number=20) / 20
print(json.dumps(1e3 * float(np.median(timeit.repeat(call, number=1, repeat=max(20, int(seconds / one)))))))
"""


def by_timeit(path: Path, execution: Execution | None, threads: int, seconds: float, size: int) -> float:
    code = _TIMEIT.replace("{opened}", _IN_ORT if execution is None else _IN_OPENVINO)
    given = [str(value) for value in (path, threads, seconds, size, execution or "")]
    return float(json.loads(_ended([sys.executable, "-c", code, *given])))


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


def measure(path: Path, execution: Execution | None, threads: int, seconds: float, rounds: int) -> dict[str, Any]:
    """A row for a file: in OpenVINO where an execution is given, else in ONNX Runtime."""
    if execution is None:
        session = open_session(path, threads, stop_spinning=True)
        size = session.get_inputs()[0].shape[-1]
        call: Callable[[np.ndarray], object] = lambda image: session.run(None, {INPUT_NAME: image})  # noqa: E731
    else:
        compiled = Session(path, threads, execution=execution)
        size, call = compiled.input_shape[-1], compiled.run
    times = [(ours(call, size, seconds), by_timeit(path, execution, threads, seconds, size)) for _ in range(rounds)]
    row = {
        "file": path.name,
        "runtime": "onnxruntime" if execution is None else f"openvino, {execution}",
        "ours_ms": round(float(np.median([mine for mine, _ in times])), 3),
        "timeit_ms": round(float(np.median([other for _, other in times])), 3),
        **spread("ratio", [mine / other for mine, other in times]),
    }
    if execution is not None:
        row["benchmark_app_ms"] = by_benchmark_app(path, execution, threads, seconds, size)
    return row


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
    rows = [measure(path, execution, threads, seconds, rounds) for path, execution in cases]
    show({"threads": threads, "rows": rows}, map(_line, rows), as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    line = f"{row['file']:<20}{row['runtime']:<16}ours {row['ours_ms']:>8.3f} ms  timeit {row['timeit_ms']:>8.3f} ms  "
    line += f"{row['ratio']:.2f} ({row['ratio_min']:.2f} to {row['ratio_max']:.2f})"
    return line + (f"  benchmark_app {row['benchmark_app_ms']:.2f} ms" if "benchmark_app_ms" in row else "")


if __name__ == "__main__":
    run(main)
