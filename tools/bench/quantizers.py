"""The INT8 file of an export beside those that ONNX Runtime's and Optimum's defaults make of the same FP32 file.

In: finished runs with an export. Out: for each file how many convolutions ONNX Runtime really runs in INT8 (counted in
its optimised graph), FP32's time over the file's at batch 1 (median over rounds in which all take turns, and the 95 %
interval of the sign test), and, where the run's data is here, top-1 on the evaluation split with the paired
drop against FP32 and its 95 % interval. All are calibrated on the same images, those that the export recorded; without
the data, theirs are calibrated on noise, which leaves time and counts as they are.

ONNX Runtime: quant_pre_process, then quantize_static, as its documentation has it, nothing else set. Optimum: static,
its settings for this processor, min-max. It is run in a process of its own (optimum_quantizer.py).

    pip install --target FOLDER optimum-onnx
    python tools/bench/quantizers.py runs/NAME --optimum FOLDER
"""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from harness import json_option, run, show
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.data import Dataset
from compress.runs.data import data_of_student
from compress.runs.folder import Run
from compress.system.errors import InputError, MachineError
from export.benchmark.candidates import read_export
from export.benchmark.latency import Timed, interleave, ratio
from export.gates import parity
from export.int8.quantize import fusion_coverage, has_vnni
from export.onnx import open_session
from export.onnx.file import INPUT_NAME
from export.runtimes import OrtRuntime, normalise

logger = logging.getLogger("compress.bench")
FP32, OURS, ORT, OPTIMUM = "fp32", "compress", "onnxruntime's defaults", "optimum's defaults"


class Images(CalibrationDataReader):
    """Calibration images one by one, float32 [N, C, H, W]."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.remaining: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        image = next(self.remaining, None)
        return None if image is None else {INPUT_NAME: image[None]}


def with_onnxruntime(source: Path, inputs: np.ndarray, folder: Path) -> Path:
    prepared, made = folder / "prepared.onnx", folder / "onnxruntime.onnx"
    quant_pre_process(source, prepared)
    quantize_static(prepared, made, Images(inputs))
    return made


def with_optimum(source: Path, inputs: np.ndarray, folder: Path, optimum: Path) -> Path:
    """Raises MachineError where Optimum fails."""
    calibration = folder / "calibration.npy"
    np.save(calibration, inputs)
    command = [sys.executable, str(Path(__file__).with_name("optimum_quantizer.py")), str(source.resolve())]
    command += [str(calibration), "vnni" if has_vnni() else "avx2", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(optimum.resolve())}
    if subprocess.run(command, check=False, env=environment, stdout=2).returncode:
        raise MachineError("Optimum made no INT8 file; its own error is above", f"Is optimum-onnx in {optimum}?")
    return folder / f"{source.stem}_quantized.onnx"


def data_of(run: Run) -> Dataset | None:
    try:
        return data_of_student(run)
    except InputError as error:
        logger.warning(f"{run.path.name}: no accuracy, calibrated on noise: {error}")
        return None


def compare(run: Run, optimum: Path | None, seconds: float, images: int | None, folder: Path) -> list[dict[str, Any]]:
    record = read_export(run)
    if record.calibration is None:
        raise InputError(f"the export of {run.path} holds no INT8 file", "Make it with --precision int8.")
    dataset, source = data_of(run), run.export / "student.onnx"
    mean, std = ((0.5,) * 3, (0.25,) * 3) if dataset is None else (dataset.mean, dataset.std)
    if dataset is None:
        shape = open_session(source).get_inputs()[0].shape
        count = record.calibration.images
        pixels = np.random.default_rng(0).integers(0, 256, (count, *shape[2:], 3), dtype=np.uint8)
    else:
        pixels = dataset.train_as_evaluated(np.array(record.calibration.indices))
    inputs = normalise(pixels, mean, std)
    paths = {FP32: source, OURS: run.export / "student.int8.onnx", ORT: with_onnxruntime(source, inputs, folder)}
    if optimum is not None:
        paths[OPTIMUM] = with_optimum(source, inputs, folder, optimum)
    runtimes = {name: OrtRuntime(path, mean, std, threads=1) for name, path in paths.items()}
    series = interleave(
        [Timed(name, lambda number, r=r: r.run(inputs[number % 8][None])) for name, r in runtimes.items()],
        min_seconds=seconds,
    )
    part = slice(0, images)
    logits = {} if dataset is None else {name: runtime(dataset.eval_images[part]) for name, runtime in runtimes.items()}
    rows = []
    for name, path in paths.items():
        int8, floats = fusion_coverage(path)
        speedup = ratio(series[FP32], series[name])
        row: dict[str, Any] = {
            "run": run.path.name,
            "file": name,
            "int8_convs": int8,
            "float_convs": floats,
            "bytes": path.stat().st_size,
            "p50_ms": round(float(np.median(series[name].ns)) / 1e6, 4),
            "times_as_fast_as_fp32": [round(value, 3) for value in (speedup.value, speedup.low, speedup.high)],
            "time_over_ours": round(ratio(series[name], series[OURS]).value, 3),
        }
        if dataset is not None:
            drop = parity.paired_drop(logits[FP32], logits[name], dataset.eval_labels[part])
            row["images"], row["top1"] = drop.n, drop.candidate_top1
            row["drop"] = [round(value, 5) for value in (drop.drop, drop.low, drop.high)]
            row["agreement"] = float((logits[name].argmax(1) == logits[FP32].argmax(1)).mean())
        rows.append(row)
    return rows


@click.command()
@click.argument("runs", type=click.Path(path_type=Path, exists=True, file_okay=False), nargs=-1, required=True)
@click.option("--optimum", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where it is installed.")
@click.option("--seconds", default=2.0, show_default=True, help="For each file.")
@click.option("--images", type=int, help="Of the evaluation split, the first; default: all.")
@json_option
def main(runs: tuple[Path, ...], optimum: Path | None, seconds: float, images: int | None, as_json: bool) -> None:
    """The INT8 files of RUNS beside those of other tools."""
    rows: list[dict[str, Any]] = []
    for path in runs:
        with tempfile.TemporaryDirectory() as scratch:
            rows += compare(Run(path), optimum, seconds, images, Path(scratch))
    lines = [_line(row) for row in rows]
    if optimum is None:
        lines.append(f"{OPTIMUM}: not run, --optimum FOLDER")
    show({"setting": "batch 1, one thread", "vnni": has_vnni(), "rows": rows}, lines, as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    value, low, high = row["times_as_fast_as_fp32"]
    line = f"{row['run']:<14}{row['file']:<24}{row['int8_convs']:>3} of {row['int8_convs'] + row['float_convs']:<4}"
    line += f"{value:6.2f} x fp32 ({low:.2f} to {high:.2f})  {row['time_over_ours']:6.2f} of ours' time"
    if "top1" in row:
        drop, least, most = row["drop"]
        line += f"  top-1 {row['top1']:.2%}, drop {drop:+.2%} ({least:+.2%} to {most:+.2%})"
    return line


if __name__ == "__main__":
    run(main)
