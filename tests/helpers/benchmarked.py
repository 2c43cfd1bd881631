"""A small run that is exported and benchmarked, without subprocesses: for the tests of benchmark and report."""

import functools
import shutil
from pathlib import Path

from compress.runs.folder import Run
from export.benchmark import measure as benchmark
from export.benchmark.results import Benchmark, read_benchmark, write_benchmark
from export.from_run import export_run


@functools.cache
def benchmarked(finished: Path, home: Path) -> tuple[Run, Benchmark]:
    """A copy of the run below `home` with everything exported that needs no TensorRT, measured briefly; made once."""
    run = Run(home / finished.name)
    shutil.copytree(finished, run.path)
    export_run(run, formats=("onnx",), precisions=("fp32", "fp16", "int8"), threads=1)
    benchmark.benchmark_run(run, batches=(1, 3), threads=(1,), min_seconds=0.01, min_runs=8)
    return run, read_benchmark(run.path)


def write(result: Benchmark, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_benchmark(folder, result)
    return folder
