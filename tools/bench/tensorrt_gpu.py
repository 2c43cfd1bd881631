"""Checks all of TensorRT on a machine with an NVIDIA GPU: build, run, and trtexec and Polygraphy beside it.

python tools/bench/tensorrt_gpu.py RUN [--batch 1 --batch 32]

For each precision it builds the engine of RUN's student (`compress export`), and prints a row: agreement of the engine
with ONNX Runtime on evaluation images, its GPU time by our runner (CUDA events around a graph's replay, no copies),
trtexec's (GPU compute time, CUDA graph, no transfers, the same profile), both as medians, and whether Polygraphy finds
the outputs of the very engine and of ONNX Runtime alike. trtexec and Polygraphy are left out where they are not
installed. Not run on a GPU yet.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
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
_MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([\d.]+) ms")


def gpu_ms(runner: EngineRunner, inputs: torch.Tensor) -> float:
    """Median milliseconds of one batch on the GPU, without copies."""
    launch = runner.launch(inputs)
    timed = latency.Timed("engine", lambda number: launch.replay(), latency.cuda_clock(runner.stream))
    return latency.summarise(latency.interleave([timed])["engine"]).p50_ms.value


def trtexec_command(program: str, engine: Path, shape: tuple[int, ...], profile: int) -> list[str]:
    """With its CUDA graph and without transfers, in the profile that our runner takes for the shape."""
    shapes = f"--shapes=input:{'x'.join(map(str, shape))}"
    options = ["--noDataTransfers", "--useCudaGraph", "--useSpinWait", f"--useProfile={profile}"]
    return [program, f"--loadEngine={engine}", shapes, *options]


def median_of(printed: str) -> float | None:
    """Milliseconds of GPU compute time, in what trtexec prints."""
    found = _MEDIAN.search(printed)
    return float(found.group(1)) if found else None


def trtexec_ms(engine: Path, shape: tuple[int, ...], profile: int) -> float | str:
    """Median milliseconds by trtexec, or why there are none."""
    if (program := shutil.which("trtexec")) is None:
        return "no trtexec"
    command = trtexec_command(program, engine, shape, profile)
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    median = median_of(done.stdout)
    return f"trtexec: exit code {done.returncode}" if median is None else median


def polygraphy_commands(
    onnx: Path, engine: Path, shape: tuple[int, ...], profile: int, tolerance: float, folder: Path
) -> list[list[str]]:
    """ONNX Runtime's answers to random inputs, then those of our engine to the same, and whether they are alike."""
    inputs, outputs = str(folder / "inputs.json"), str(folder / "outputs.json")
    shapes = ["--input-shapes", f"input:[{','.join(map(str, shape))}]"]
    expected = ["polygraphy", "run", str(onnx), "--onnxrt", *shapes, "--save-inputs", inputs, "--save-outputs", outputs]
    loaded = ["--model-type", "engine", "--trt", "--optimization-profile", str(profile)]
    compared = ["--load-inputs", inputs, "--load-outputs", outputs, "--atol", str(tolerance), "--rtol", str(tolerance)]
    return [expected, ["polygraphy", "run", str(engine), *loaded, *compared]]


def polygraphy(onnx: Path, engine: Path, shape: tuple[int, ...], profile: int, tolerance: float) -> str:
    """Whether our engine and ONNX Runtime give alike outputs, by Polygraphy."""
    if shutil.which("polygraphy") is None:
        return "no polygraphy"
    with tempfile.TemporaryDirectory() as folder:
        expected, compared = polygraphy_commands(onnx, engine, shape, profile, tolerance, Path(folder))
        options: Any = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
        if subprocess.run(expected, **options).returncode != 0:
            return "not run in ONNX Runtime"
        return "alike" if subprocess.run(compared, **options).returncode == 0 else "differs"


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
            profile, engine = runner.profile(batch), folder.engine(precision)
            inputs = normalise(images[np.arange(batch) % len(images)], data.mean, data.std)
            made.append(
                {
                    "precision": precision,
                    "batch": batch,
                    "top1": float((answers.argmax(1) == data.eval_labels[: len(images)]).mean()),
                    "agreement": float((answers.argmax(1) == expected.argmax(1)).mean()),
                    "gpu_ms": gpu_ms(runner, torch.from_numpy(inputs)),
                    "trtexec_ms": trtexec_ms(engine, inputs.shape, profile),
                    "polygraphy": polygraphy(
                        folder.trt_onnx(precision), engine, inputs.shape, profile, tolerances[precision]
                    ),
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
