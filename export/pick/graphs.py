"""The ONNX files of an architecture with random weights, on which its latency does not depend.

In: a timm name and an image size. Out: an FP32 file, INT8 files, and what is known of them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.models.create import make_timm_model
from compress.system.errors import CompressError, InputError, MachineError, first_line, is_of_the_machine
from export.int8.macs import WEIGHTED, layer_macs
from export.int8.quantize import Quantizer, Target, fusion_coverage
from export.onnx import export_onnx

CLASSES = 1000
"""Outputs, as in published parameters: a student of fewer classes is no slower."""
_CALIBRATION = 8
_TARGETS: tuple[Target, ...] = ("ort", "trt")


@dataclass(frozen=True)
class Graphs:
    """Files of one architecture.

    Attributes:
        int8: by the runtime that the graph is made for.
        macs_m: multiply-adds of the layers with weights for one image, in millions.
        int8_convs: that ONNX Runtime runs in INT8.
        float_convs: that it runs in float.
    """

    fp32: Path
    int8: dict[Target, Path]
    macs_m: float
    int8_convs: int
    float_convs: int


def make_graphs(name: str, folder: Path, *, image_size: int, threads: int) -> Graphs:
    """Exports the architecture and quantises it, calibrated on a little noise.

    Args:
        name: timm's, without a tag.
        folder: gets the files.
        image_size: pixels a side.
        threads: of ONNX Runtime while it calibrates.

    Raises:
        InputError: it does not take images of that size, or cannot be exported or quantised.
        MachineError: memory or space was too small, which may pass.
    """
    torch.manual_seed(0)
    try:
        model = make_timm_model(name, {}, image_size, num_classes=CLASSES)
        _fill_zeros(model)
        fp32 = folder / f"{name}.onnx"
        export_onnx(model, fp32, image_size=image_size, metadata={})
        images = np.random.default_rng(0).integers(0, 256, (_CALIBRATION, image_size, image_size, 3), np.uint8)
        quantizer = Quantizer(fp32, images, [0.5] * 3, [0.25] * 3, method="minmax", threads=threads)
        int8: dict[Target, Path] = {target: folder / f"{name}.int8.{target}.onnx" for target in _TARGETS}
        for target, path in int8.items():
            quantizer.write(path, target=target)
        convs = fusion_coverage(int8["ort"])
    except Exception as error:
        if is_of_the_machine(error):
            raise MachineError(
                f"{name} could not be exported at {image_size} pixels here ({first_line(error)})",
                "Free memory or space, or name other models with --model.",
            ) from error
        if isinstance(error, CompressError):
            raise
        raise InputError(f"{name} cannot be exported at {image_size} pixels ({first_line(error)})") from error
    macs = sum(count for count, _ in layer_macs(fp32, WEIGHTED).values())
    return Graphs(fp32, int8, round(macs / 1e6, 1), *convs)


def _fill_zeros(model: nn.Module) -> None:
    """Gives weights to branches that begin as zeros. A graph optimiser could fold them away."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
