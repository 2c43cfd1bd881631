"""The layers of a quantised file, as numbers: what becomes of their weights, and how their input is rounded.

In: a file that a Quantizer wrote. Out: a QuantizedLayer by name.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch.nn import functional

from export.onnx import load

BIASED = ("Conv", "Gemm")
"""The layers that have a place for a bias."""


@dataclass(frozen=True)
class QuantizedLayer:
    """A layer with INT8 weights and an INT8 input. `weight`: as it is multiplied, float32."""

    weight: np.ndarray
    input_scale: onnx.TensorProto
    input_zero: onnx.TensorProto


def without_pixels(model: onnx.ModelProto) -> frozenset[str]:
    """The nodes whose output follows from the shape of the input alone, as that of position encodings does.

    The nodes of `model` are in order. OpenVINO folds such a branch where the shape is fixed. With a quantised
    convolution in it OpenVINO 2026.4 does not compile EdgeNeXt.
    """
    seen = {info.name for info in model.graph.input} - {tensor.name for tensor in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type not in ("Shape", "Size") and seen.intersection(node.input):
            seen.update(node.output)
        else:
            found.add(node.name)
    return frozenset(found)


def quantized_layers(path: Path) -> dict[str, QuantizedLayer]:
    """The layers with a place for a bias that are INT8, by name."""
    graph = load(path).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = {}
    for node in graph.node:
        sources = [made_by.get(name) for name in node.input[:2]]
        if node.op_type in BIASED and all(source and source.op_type == "DequantizeLinear" for source in sources):
            entering, weight = (source for source in sources if source is not None)
            if set(entering.input[1:3]) <= constants.keys():
                scale, zero = (constants[name] for name in entering.input[1:3])
                found[node.name] = QuantizedLayer(_dequantized(weight, constants, made_by), _float32(scale), zero)
    return found


def _dequantized(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], made_by: dict[str, onnx.NodeProto]
) -> np.ndarray:
    """The weights behind a DequantizeLinear: stored in 8 bits, or as float behind a pair."""
    values, axis = node.input[0], attributes(node).get("axis", 1)
    pair = made_by.get(values)
    stored = numpy_helper.to_array(constants[values if pair is None else pair.input[0]])
    scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
    if scale.ndim:
        scale = scale.reshape([-1 if place == axis else 1 for place in range(stored.ndim)])
    whole = stored if pair is None else np.clip(np.rint(stored / scale), -128, 127)
    return whole.astype(np.float32) * scale


def _float32(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """FP16 in the files for TensorRT."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def linear(node: onnx.NodeProto, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What a layer without its bias makes of one input [C, H, W] or [K]: the mean over positions of each channel."""
    known, x, w = attributes(node), torch.tensor(inputs)[None], torch.tensor(weight)
    if node.op_type == "Gemm":
        return (x @ (w.T if known.get("transB") else w))[0].numpy() * known.get("alpha", 1.0)
    spatial = w.ndim - 2
    pads = known.get("pads", [0] * 2 * spatial)
    # torch wants (before, after) of the last dimension first.
    x = functional.pad(x, [pads[place + side * spatial] for place in reversed(range(spatial)) for side in (0, 1)])
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    found = convolve(x, w, None, known.get("strides", 1), 0, known.get("dilations", 1), known.get("group", 1))
    return found[0].flatten(1).mean(1).numpy()
