"""Our INT8 files for TensorRT beside those of NVIDIA's ModelOpt: what TensorRT builds of them, kernel by kernel.

In: names of timm models, which get random weights and the BatchNorm statistics of noise. Out: for each file how many
convolutions and sums of TensorRT's built network take integers, and its kernels by the types that they read and write.
TensorRT for RTX says so in the log of its builder, and builds without a GPU (for SM89). Nothing is run.

ModelOpt wants other versions of onnx and onnxruntime. It is run by an interpreter of its own (modelopt_quantizer.py).

    python -m venv FOLDER && FOLDER/bin/pip install 'nvidia-modelopt[onnx]==0.47.0'
    python tools/bench/placement.py resnet18 efficientnet_b0 --modelopt FOLDER/bin/python
"""

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import timm
import torch
from harness import json_option, run, show
from torch import nn

from compress.system.errors import InputError, MachineError
from export.int8 import Quantizer
from export.onnx import export_onnx
from export.runtimes import normalise
from export.tensorrt import tensorrt

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = 16
_LAYER = re.compile(r"Name: \S+, LayerType: (\w+), Inputs: \[(.*?)\], Constants: \[.*\], Outputs: \[(.*?)\], Tactic")
_SCHEDULING = ("signal", "wait", "shape_call")


class Kernel(NamedTuple):
    """A kernel of a built network, with the types of what it reads (but constants) and writes."""

    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def random_onnx(name: str, images: np.ndarray, path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a cumulative average, complete after one pass
    with torch.no_grad():
        model.train()(torch.from_numpy(normalise(images, MEAN, STD)))
    export_onnx(model.eval(), path, image_size=images.shape[1], metadata={})


def built(path: Path) -> list[Kernel]:
    """The kernels that TensorRT builds of a file.

    Raises:
        InputError: TensorRT takes or builds it not.
        MachineError: there is no TensorRT for RTX.
    """
    trt = tensorrt()
    if not hasattr(trt, "ComputeCapability"):
        raise MachineError("this needs TensorRT for RTX", "pip uninstall tensorrt, and install compress-timm[trt-rtx]")
    messages: list[str] = []

    class Log(trt.ILogger):
        def log(self, severity: Any, message: str) -> None:
            messages.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    if not trt.OnnxParser(network, log).parse(path.read_bytes()):
        raise InputError(f"TensorRT refuses {path.name}: {messages[-1]}")
    profile, taken = builder.create_optimization_profile(), network.get_input(0)
    profile.set_shape(taken.name, *[(batch, *tuple(taken.shape)[1:]) for batch in (1, 1, 8)])
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise InputError(f"TensorRT does not build {path.name}: {messages[-1]}")
    lines = (line for message in messages for line in message.splitlines())
    found = (_LAYER.search(line) for line in lines)
    return [Kernel(m[1], _types(m[2]), _types(m[3])) for m in found if m is not None and m[1] not in _SCHEDULING]


def _types(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"Datatype: (\w+)", text))


def summary(kernels: Iterable[Kernel]) -> dict[str, Any]:
    kernels = list(kernels)
    convolutions = [kernel for kernel in kernels if kernel.kind == "correlation"]
    kinds = Counter(f"{' + '.join(k.reads)} -> {' + '.join(k.writes)}" for k in kernels if k.kind != "correlation")
    return {
        "convolutions": len(convolutions),
        "int8_convolutions": sum(kernel.reads == ("Int8",) for kernel in convolutions),
        "kernels": len(kernels),
        "other_kernels": dict(sorted(kinds.items())),
    }


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--modelopt", type=click.Path(exists=True, dir_okay=False), help="A Python that has ModelOpt.")
@click.option("--size", type=click.IntRange(32), default=64, show_default=True, help="Side of the images, in pixels.")
@json_option
def main(names: tuple[str, ...], modelopt: str | None, size: int, as_json: bool) -> None:
    """INT8 for TensorRT, ours and ModelOpt's, by what TensorRT builds of it."""
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), dtype=np.uint8)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        sources = [Path(folder) / f"{name}.onnx" for name in names]
        for name, source in zip(names, sources, strict=True):
            random_onnx(name, images, source)
            quantizer = Quantizer(source, images, MEAN, STD, method="minmax")
            quantizer.write(source.with_suffix(".compress.onnx"), target="trt")
        makers = ["compress"]
        if modelopt is not None:
            np.save(Path(folder) / "images.npy", normalise(images, MEAN, STD))
            script = Path(__file__).with_name("modelopt_quantizer.py")
            command = [modelopt, script, Path(folder) / "images.npy", *sources]
            if subprocess.run(command, check=False, stdout=2).returncode:
                raise MachineError("ModelOpt made no INT8 file; its own error is above")
            makers.append("modelopt")
        for name, source in zip(names, sources, strict=True):
            results[name] = {maker: summary(built(source.with_suffix(f".{maker}.onnx"))) for maker in makers}
    lines = [f"{name:<24}{maker:<12}{found}" for name, makers in results.items() for maker, found in makers.items()]
    show({"setting": {"size": size}, "models": results}, lines, as_json=as_json)


if __name__ == "__main__":
    run(main)
