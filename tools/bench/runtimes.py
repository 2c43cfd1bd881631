"""What `compress benchmark` could recommend beside what a user would try first, all in one run.

In: timm's models with random weights, which their latency does not depend on. Out: for each, at each batch and number
of threads, the p50 of the fastest of our candidates (our graphs in ONNX Runtime and OpenVINO, each precision), and of
its rivals: ONNX Runtime in FP32, with the INT8 graph of its own defaults and with Optimum's; OpenVINO in f32, in what
it takes by itself (bf16 where the CPU has it), as its benchmark_app compiles by default, and with NNCF's INT8 graph.
All take turns. OpenVINO's rivals have fixed shapes, too, as benchmark_app has them. Our INT8 layers are those that an
export chooses at batch 1 with the first number of threads.

    pip install nncf; pip install --target FOLDER optimum-onnx
    python tools/bench/runtimes.py --threads 1 --threads 2 --batch 1 --batch 32 --optimum FOLDER --page PAGE.md
"""

import itertools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime
import timm
import torch
from harness import json_option, machine, run, show
from quantizers import with_onnxruntime, with_optimum
from torch import nn

import compress.models.small_stem  # noqa: F401  (registers resnet18_smallstem)
from compress.system.errors import InputError
from export.benchmark.latency import Timed, interleave, ratio
from export.benchmark.machine import this_machine
from export.int8 import Quantizer
from export.int8.layouts import ranked_layouts
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
_PAGE = """# The fastest file beside what others make

For each model the fastest of our candidates, in any runtime and precision, over the fastest of what a user would try
first: ONNX Runtime in FP32, with the INT8 file of its own defaults and with Optimum's; OpenVINO in f32, in what it
takes by itself, as its benchmark_app compiles, and with NNCF's INT8 file. Below 1 ours is faster. All took turns in one
run; the interval is 95 %. Weights are random: the times do not depend on them, and nothing is said about accuracy.
The last column is of our files in ONNX Runtime: above 1 INT8 is slower. An export warns of it, and no verdict takes it.

```sh
{command}
```

| model | batch | threads | ours | ms | the best other one | ms | ours over it | INT8 over FP32 |
|---|---|---|---|---|---|---|---|---|
{rows}

Machine: {machine}.
"""


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


def as_benchmark_app(path: Path, shape: tuple[int, ...], threads: int) -> Call:
    """Its defaults for a CPU, `-hint throughput`, with the threads that all have."""
    model = core().read_model(str(path))
    model.reshape(list(shape))
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_NUM_THREADS": str(threads)}
    request = core().compile_model(model, "CPU", options).create_infer_request()
    return lambda inputs: request.infer([inputs])


@dataclass(frozen=True)
class Files:
    """The ONNX files and IRs of one model, ours and others'."""

    fp32: Path
    layout: str
    ours: dict[str, Path]
    onnx: dict[str, Path]
    nncf: Path | None

    def candidates(self, threads: int) -> dict[str, Call]:
        """Every graph of an export in every runtime that may run it here."""
        calls = {"onnxruntime fp32": in_ort(self.fp32, threads)}
        calls[f"onnxruntime int8, {self.layout}"] = in_ort(self.ours["int8"], threads)
        for title, path in {"fp32": self.fp32, **self.ours}.items():
            for execution in dict.fromkeys(("f32", own_execution())):
                calls[f"openvino {title}, {execution}"] = Session(path, threads, execution=execution).run
        return calls

    def rivals(self, shape: tuple[int, ...], threads: int) -> dict[str, Call]:
        """What needs nothing of this project."""
        calls = {"onnxruntime fp32": in_ort(self.fp32, threads)}
        calls |= {f"onnxruntime int8, {title}": in_ort(path, threads) for title, path in self.onnx.items()}
        for execution in dict.fromkeys(("f32", own_execution())):
            calls[f"openvino fp32, {execution}"] = Session(self.fp32, threads, execution=execution).run
        calls["openvino fp32, benchmark_app"] = as_benchmark_app(self.fp32, shape, threads)
        if self.nncf is not None:
            calls["openvino int8, nncf"] = Session(self.nncf, threads, execution=own_execution()).run
        return calls


def made(name: str, pixels: np.ndarray, folder: Path, threads: int, optimum: Path | None) -> Files:
    """All files of a model.

    Args:
        pixels: uint8 [N, H, W, 3] to calibrate on.
        threads: at which our INT8 layers are chosen.
        optimum: where Optimum is installed.
    """
    inputs = normalise(pixels, MEAN, STD)
    fp32 = folder / "student.onnx"
    export_onnx(sane(name, pixels), fp32, image_size=pixels.shape[1], metadata={})
    quantizer = Quantizer(fp32, pixels, MEAN, STD, method="minmax", threads=threads)
    ours = {"int8": folder / "student.int8.onnx", "int8, symmetric": folder / "student.int8.trt.onnx"}
    ranked = ranked_layouts(quantizer, fp32, minutes=2, min_int8_macs=0.9, threads=threads)
    layout, layers = next(iter(ranked.items()))
    quantizer.laid_out(layers).write(ours["int8"], target="ort")
    quantizer.write(ours["int8, symmetric"], target="trt")
    others = {"its defaults": with_onnxruntime(fp32, inputs, folder)}
    if optimum is not None:
        others["optimum"] = with_optimum(fp32, inputs, folder, optimum)
    return Files(fp32, layout, ours, others, with_nncf(fp32, inputs, folder))


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


def compare(files: Files, shown: np.ndarray, threads: int, seconds: float) -> dict[str, Any]:
    """The p50 of every contestant, the fastest of ours and of its rivals, and the ratio of both."""
    calls = {f"ours: {key}": call for key, call in files.candidates(threads).items()}
    calls |= {f"rival: {key}": call for key, call in files.rivals(shown.shape, threads).items()}
    series = interleave(
        [Timed(key, lambda number, call=call: call(shown)) for key, call in calls.items()], min_seconds=seconds
    )
    p50 = {key: round(float(np.median(found.ns)) / 1e6, 3) for key, found in series.items()}
    ours, rival = (
        min((key for key in p50 if key.startswith(kind)), key=lambda key: p50[key]) for kind in ("ours", "rival")
    )
    times = ratio(series[ours], series[rival])
    int8 = f"ours: onnxruntime int8, {files.layout}"
    return {
        "batch": len(shown),
        "threads": threads,
        "ours": ours.partition(": ")[2],
        "rival": rival.partition(": ")[2],
        "ours_over_rival": [round(value, 3) for value in (times.value, times.low, times.high)],
        "int8_over_fp32": round(p50[int8] / p50["ours: onnxruntime fp32"], 3),
        "load_average": machine()["load_average"],
        "p50_ms": p50,
    }


def measure(
    name: str, batches: Sequence[int], threads: Sequence[int], seconds: float, optimum: Path | None
) -> list[dict[str, Any]]:
    """A row for each setting of one model."""
    size = MODELS[name]
    coarse = np.random.default_rng(0).integers(0, 256, (CALIBRATION, size // 8, size // 8, 3), dtype=np.uint8)
    pixels = coarse.repeat(8, axis=1).repeat(8, axis=2)
    inputs = normalise(pixels, MEAN, STD)
    with tempfile.TemporaryDirectory() as folder:
        files = made(name, pixels, Path(folder), threads[0], optimum)
        return [
            {
                "model": name,
                "image_size": size,
                **compare(files, np.ascontiguousarray(inputs[np.arange(batch) % CALIBRATION]), count, seconds),
            }
            for count, batch in itertools.product(threads, batches)
        ]


@click.command()
@click.option("--model", "models", type=click.Choice(list(MODELS)), multiple=True, help="Default: all of the table.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--threads", type=click.IntRange(1), multiple=True, default=(1,), show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="For each contestant.")
@click.option("--optimum", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where it is installed.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write the table as Markdown.")
@json_option
def main(
    models: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    seconds: float,
    optimum: Path | None,
    page: Path | None,
    as_json: bool,
) -> None:
    """The fastest of our candidates beside other tools' files."""
    if not installed():
        raise InputError("OpenVINO is not installed", "pip install 'compress-timm[openvino]'")
    rows = []
    for name in models or MODELS:
        found = measure(name, batches, threads, seconds, optimum)
        rows += found
        for row in found:
            click.echo(_line(row), err=True)
    if page is not None:
        here = this_machine()
        settings = [f"--batch {batch}" for batch in batches] + [f"--threads {count}" for count in threads]
        settings += [f"--seconds {seconds:g}", *(["--optimum FOLDER"] if optimum else [])]
        command = " ".join(["python tools/bench/runtimes.py", *settings])
        shown = (
            f"{here.cpu}; ONNX Runtime {onnxruntime.__version__}, OpenVINO {openvino().__version__.partition('-')[0]}"
        )
        page.write_text(_PAGE.format(command=command, rows="\n".join(map(_row, rows)), machine=shown), encoding="utf-8")
    show({"rows": rows}, map(_line, rows), as_json=as_json)


def _row(row: dict[str, Any]) -> str:
    value, low, high = row["ours_over_rival"]
    ours, rival = (row["p50_ms"][f"{kind}: {row[kind]}"] for kind in ("ours", "rival"))
    cells = [row["model"], row["batch"], row["threads"], row["ours"], f"{ours:.2f}", row["rival"], f"{rival:.2f}"]
    return f"| {' | '.join(map(str, cells))} | {value:.2f} ({low:.2f} to {high:.2f}) | {row['int8_over_fp32']:.2f} |"


def _line(row: dict[str, Any]) -> str:
    value, low, high = row["ours_over_rival"]
    p50 = row["p50_ms"]
    return (
        f"{row['model']:<24}batch {row['batch']:>2}, {row['threads']} threads  "
        f"ours {p50['ours: ' + row['ours']]:>8.3f} ms ({row['ours']})  "
        f"best rival {p50['rival: ' + row['rival']]:>8.3f} ms ({row['rival']})  "
        f"{value:.2f} of its time ({low:.2f} to {high:.2f})  load {row['load_average']}"
    )


if __name__ == "__main__":
    run(main)
