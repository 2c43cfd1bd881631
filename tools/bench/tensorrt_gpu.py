"""Checks all of TensorRT on a machine with an NVIDIA GPU: build, run, and trtexec and Polygraphy beside it.

python tools/bench/tensorrt_gpu.py RUN [--batch 1 --batch 32]

For each precision it builds the engine of RUN's student (`compress export`), and prints a row: agreement of the engine
with ONNX Runtime on evaluation images, its GPU time by our runner (CUDA events around a graph's replay, no copies),
trtexec's (GPU compute time, CUDA graph, no transfers), and whether Polygraphy finds the outputs of TensorRT and ONNX
Runtime alike. trtexec and Polygraphy are left out where they are not installed. Not run on a GPU yet.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from compress.runs.data import data_of_student
from compress.runs.folder import finished_run
from compress.system.errors import CompressError, MachineError
from export import export_run
from export.benchmark import latency
from export.folder import ExportFolder
from export.records import PRECISIONS, Precision
from export.runtimes import OrtRuntime, normalise
from export.tensorrt import EngineRunner, EngineRuntime

IMAGES = 1000
_MEAN = re.compile(r"GPU Compute Time:.*?mean = ([\d.]+) ms")


def gpu_ms(runner: EngineRunner, inputs: torch.Tensor) -> float:
    """Median milliseconds of one batch on the GPU, without copies."""
    launch = runner.launch(inputs)
    timed = latency.Timed("engine", lambda number: launch.replay(), latency.cuda_clock(runner.stream))
    return latency.summarise(latency.interleave([timed])["engine"]).p50_ms.value


def trtexec_ms(engine: Path, shape: tuple[int, ...]) -> float | str:
    """Mean milliseconds by trtexec, with its CUDA graph and without transfers, or why there are none."""
    if (program := shutil.which("trtexec")) is None:
        return "no trtexec"
    shapes = f"--shapes=input:{'x'.join(map(str, shape))}"
    options = [f"--loadEngine={engine}", shapes, "--noDataTransfers", "--useCudaGraph", "--useSpinWait"]
    done = subprocess.run([program, *options], capture_output=True, encoding="utf-8", errors="replace", check=False)
    found = _MEAN.search(done.stdout)
    return float(found.group(1)) if found else f"trtexec: exit code {done.returncode}"


def polygraphy(onnx: Path, shape: tuple[int, ...], tolerance: float) -> str:
    """Whether TensorRT and ONNX Runtime give alike outputs for the file, by Polygraphy."""
    if shutil.which("polygraphy") is None:
        return "no polygraphy"
    shapes = ["--input-shapes", f"input:[{','.join(map(str, shape))}]"]
    types = ["--strongly-typed", "--atol", str(tolerance), "--rtol", str(tolerance)]
    command = ["polygraphy", "run", str(onnx), "--trt", "--onnxrt", *shapes, *types]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    return "alike" if done.returncode == 0 else "differs"


def rows(run: Path, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    """A row for each precision and batch."""
    found = finished_run(run)
    export_run(found, formats=("onnx", "trt"), precisions=PRECISIONS)
    data, folder = data_of_student(found), ExportFolder(found.export)
    images = np.asarray(data.eval_images[:IMAGES])
    tolerances: dict[Precision, float] = {"fp32": 1e-2, "fp16": 5e-2, "int8": 0.5}
    made = []
    for precision in PRECISIONS:
        runner = EngineRunner(folder.engine(precision))
        answers = EngineRuntime(runner, data.mean, data.std)(images)
        expected = OrtRuntime(folder.trt_onnx(precision), data.mean, data.std, literal=precision == "int8")(images)
        for batch in batches:
            inputs = normalise(images[np.arange(batch) % len(images)], data.mean, data.std)
            made.append(
                {
                    "precision": precision,
                    "batch": batch,
                    "top1": float((answers.argmax(1) == data.eval_labels[: len(images)]).mean()),
                    "agreement": float((answers.argmax(1) == expected.argmax(1)).mean()),
                    "gpu_ms": gpu_ms(runner, torch.from_numpy(inputs)),
                    "trtexec_ms": trtexec_ms(folder.engine(precision), inputs.shape),
                    "polygraphy": polygraphy(folder.trt_onnx(precision), inputs.shape, tolerances[precision]),
                }
            )
    return made


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 32), show_default=True)
@click.option("--json", "json_", is_flag=True)
def main(run: Path, batches: tuple[int, ...], json_: bool) -> None:
    """Build, run and compare the engines of RUN on the GPU that is here."""
    try:
        if not torch.cuda.is_available():
            raise MachineError("there is no CUDA device", "Run this on a machine with an NVIDIA GPU.")
        made = rows(run, batches)
    except CompressError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.code)
    if json_:
        click.echo(json.dumps({"gpu": torch.cuda.get_device_name(), "rows": made}, indent=2))
        return
    click.echo(f"| {' | '.join(made[0])} |\n|{'---|' * len(made[0])}")
    for row in made:
        shown = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        click.echo(f"| {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
