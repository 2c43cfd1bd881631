"""What `compress benchmark` could recommend beside what a user would try first, all in one run.

In: timm's models with random weights, which their latency does not depend on. Out: for each the p50 of the fastest of
our candidates (our graphs in ONNX Runtime and OpenVINO, each precision), and of its rivals: ONNX Runtime in FP32 and
with the INT8 graph of its own defaults, OpenVINO in f32, in what it takes by itself (bf16 where the CPU has it), and
with NNCF's INT8 graph. All take turns; OpenVINO's rivals have fixed shapes, too, as its benchmark_app has them.

    pip install nncf
    python tools/bench/runtimes.py --threads 1 --batch 1
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import timm
import torch
from harness import json_option, machine, run, show
from quantizers import with_onnxruntime
from torch import nn

import compress.models.small_stem  # noqa: F401  (registers resnet18_smallstem)
from compress.system.errors import InputError
from export.benchmark.latency import Timed, interleave, ratio
from export.int8 import Quantizer
from export.int8.layouts import fastest_layout
from export.onnx import INPUT_NAME, export_onnx, open_session
from export.openvino import Session, core, installed, openvino, own_execution
from export.runtimes import normalise

MODELS = {
    "resnet18": 224,
    "resnet18_smallstem": 32,
    "tf_efficientnet_lite0": 224,
    "mobilenetv3_large_100": 224,
    "efficientnet_b0": 224,
    "repvit_m0_9": 224,
    "vit_tiny_patch16_224": 224,
    "convnext_atto": 224,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CALIBRATION = 16
Call = Callable[[np.ndarray], object]


def sane(name: str, pixels: np.ndarray) -> nn.Module:
    """Random weights, with the statistics of the pictures in the BatchNorms, so that no range is empty."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=100)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.from_numpy(normalise(pixels, MEAN, STD)))
    return model.eval()


def in_ort(path: Path, threads: int) -> Call:
    session = open_session(path, threads, stop_spinning=True)
    return lambda inputs: session.run(None, {INPUT_NAME: inputs})


def our_candidates(fp32: Path, pixels: np.ndarray, folder: Path, threads: int) -> dict[str, Call]:
    """Every graph of an export in every runtime that may run it here."""
    quantizer = Quantizer(fp32, pixels, MEAN, STD, method="minmax", threads=threads)
    ours, symmetric = folder / "student.int8.onnx", folder / "student.int8.trt.onnx"
    name, layout = fastest_layout(quantizer, fp32, minutes=2, min_int8_macs=0.9, threads=threads)
    quantizer.laid_out(layout).write(ours, target="ort")
    quantizer.write(symmetric, target="trt")
    calls = {"onnxruntime fp32": in_ort(fp32, threads), f"onnxruntime int8, {name}": in_ort(ours, threads)}
    for title, path in (("fp32", fp32), ("int8", ours), ("int8, symmetric", symmetric)):
        for execution in dict.fromkeys(("f32", own_execution())):
            calls[f"openvino {title}, {execution}"] = Session(path, threads, execution=execution).run
    return calls


def rivals(fp32: Path, inputs: np.ndarray, folder: Path, threads: int) -> dict[str, Call]:
    """What needs nothing of this project."""
    calls = {"onnxruntime fp32": in_ort(fp32, threads)}
    calls["onnxruntime int8, its defaults"] = in_ort(with_onnxruntime(fp32, inputs, folder), threads)
    for execution in dict.fromkeys(("f32", own_execution())):
        calls[f"openvino fp32, {execution}"] = Session(fp32, threads, execution=execution).run
    nncf = with_nncf(fp32, inputs, folder)
    if nncf is not None:
        calls["openvino int8, nncf"] = Session(nncf, threads, execution=own_execution()).run
    return calls


def with_nncf(fp32: Path, inputs: np.ndarray, folder: Path) -> Path | None:
    """NNCF's mixed preset, as its documentation has it for CPUs; None where it is not installed."""
    try:
        import nncf
    except ImportError:
        return None

    data = nncf.Dataset([{INPUT_NAME: image[None]} for image in inputs])
    model = nncf.quantize(core().read_model(str(fp32)), data, preset=nncf.QuantizationPreset.MIXED)
    openvino().save_model(model, str(folder / "nncf.xml"))
    return folder / "nncf.xml"


def compare(name: str, size: int, batch: int, threads: int, seconds: float) -> dict[str, Any]:
    """One model: the p50 of every contestant, the fastest of ours and of its rivals, and the ratio of both."""
    coarse = np.random.default_rng(0).integers(0, 256, (CALIBRATION, size // 8, size // 8, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    inputs = normalise(pixels, MEAN, STD)
    shown = np.ascontiguousarray(inputs[np.arange(batch) % CALIBRATION])
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        fp32 = folder / "student.onnx"
        export_onnx(sane(name, pixels), fp32, image_size=size, metadata={})
        calls = {f"ours: {key}": call for key, call in our_candidates(fp32, pixels, folder, threads).items()}
        calls |= {f"rival: {key}": call for key, call in rivals(fp32, inputs, folder, threads).items()}
        series = interleave(
            [Timed(key, lambda number, call=call: call(shown)) for key, call in calls.items()], min_seconds=seconds
        )
    p50 = {key: round(float(np.median(found.ns)) / 1e6, 3) for key, found in series.items()}
    ours, rival = (
        min((key for key in p50 if key.startswith(kind)), key=lambda key: p50[key]) for kind in ("ours", "rival")
    )
    times = ratio(series[ours], series[rival])
    return {
        "model": name,
        "image_size": size,
        "ours": ours.partition(": ")[2],
        "rival": rival.partition(": ")[2],
        "ours_over_rival": [round(value, 3) for value in (times.value, times.low, times.high)],
        "load_average": machine()["load_average"],
        "p50_ms": p50,
    }


@click.command()
@click.option("--model", "models", type=click.Choice(list(MODELS)), multiple=True, help="Default: all of the table.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="For each contestant.")
@json_option
def main(models: tuple[str, ...], batch: int, threads: int, seconds: float, as_json: bool) -> None:
    """The fastest of our candidates beside other tools' files."""
    if not installed():
        raise InputError("OpenVINO is not installed", "pip install 'compress-timm[openvino]'")
    rows = [compare(name, MODELS[name], batch, threads, seconds) for name in models or MODELS]
    show({"setting": f"batch {batch}, {threads} threads", "rows": rows}, map(_line, rows), as_json=as_json)


def _line(row: dict[str, Any]) -> str:
    value, low, high = row["ours_over_rival"]
    p50 = row["p50_ms"]
    return (
        f"{row['model']:<24}ours {p50['ours: ' + row['ours']]:>8.3f} ms ({row['ours']})  "
        f"best rival {p50['rival: ' + row['rival']]:>8.3f} ms ({row['rival']})  "
        f"{value:.2f} of its time ({low:.2f} to {high:.2f})  load {row['load_average']}"
    )


if __name__ == "__main__":
    run(main)
