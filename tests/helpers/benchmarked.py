"""A small run that is exported and benchmarked, without subprocesses: for the tests of benchmark and report."""

import functools
import shutil
from pathlib import Path

from compress.runs.folder import Run
from export import benchmark_run, export_run
from export.benchmark import Benchmark, read_benchmark, write_benchmark


@functools.cache
def benchmarked(finished: Path, home: Path) -> tuple[Run, Benchmark]:
    """A copy of the run below `home`, exported for ONNX Runtime and measured briefly in it and in torch; made once."""
    run = Run(home / finished.name)
    shutil.copytree(finished, run.path)
    export_run(run, precisions=("fp32", "fp16", "int8"), threads=1)
    runtimes = ("torch", "ort", "trt")
    benchmark_run(run, runtimes=runtimes, batches=(1, 3), threads=(1,), min_seconds=0.01, min_runs=8)
    return run, read_benchmark(run)


def write(result: Benchmark, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_benchmark(Run(folder), result)
    return folder
