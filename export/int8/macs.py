"""How much of a network's work is done in INT8, in multiply-adds for one image, read from the ONNX file."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx

from export.onnx import load

WEIGHTED = ("Conv", "Gemm", "MatMul")


def layer_macs(path: Path, op_types: Collection[str] = ("Conv",)) -> dict[str, tuple[int, bool]]:
    """The work of each layer for one image.

    Args:
        path: an ONNX file.
        op_types: the operators that count.

    Returns:
        Multiply-adds and whether they are INT8, by name, for the layers with constant weights.
    """
    graph = _one_image(load(path)).graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in [*graph.value_info, *graph.output, *graph.input]
    }
    macs = {}
    for node in graph.node:
        if node.op_type not in op_types:
            continue
        weight = _source(node.input[1], producers)
        if weight not in constants:
            continue
        # Conv [N, K, H, W] uses its weights H * W times, MatMul [N, T, K] T times, Gemm [N, K] once. N is the image,
        # or its windows.
        output = shapes.get(node.output[0], [])
        positions = output[:1] + output[2:] if node.op_type == "Conv" else output[:-1]
        count = int(np.prod(constants[weight])) * int(np.prod([max(1, size) for size in positions]))
        int8 = all(name in producers and producers[name].op_type == "DequantizeLinear" for name in node.input[:2])
        macs[node.name] = (count, int8)
    return macs


def _one_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of a batch of 1. Windowed attention has a batch of windows, which are many an image."""
    graph = model.graph
    for info in graph.input:
        for dim in info.type.tensor_type.shape.dim[:1]:
            dim.dim_value = 1
    for info in graph.output:
        info.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def _source(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    """The tensor behind a DequantizeLinear, or behind a pair."""
    while name in producers and producers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        name = producers[name].input[0]
    return name


def counted_ops(path: Path) -> tuple[str, ...]:
    """The operators that the INT8 share is measured on: convolutions, where they do most of the work.

    A vision transformer has one convolution, the patch embedding. There all weighted layers count.
    """
    everything = layer_macs(path, WEIGHTED)
    convs = sum(count for count, _ in layer_macs(path).values())
    return ("Conv",) if 2 * convs >= sum(count for count, _ in everything.values()) else WEIGHTED


def int8_mac_fraction(path: Path, op_types: Collection[str] = ("Conv",)) -> float:
    """The share of the multiply-adds of `op_types` that is done in INT8; 0 where there are none."""
    macs = layer_macs(path, op_types)
    total = sum(count for count, _ in macs.values())
    return sum(count for count, int8 in macs.values() if int8) / total if total else 0.0


def float32_layers(path: Path) -> list[str]:
    """The layers whose output is float32, though their weights be INT8, by name and in graph order."""
    graph = onnx.shape_inference.infer_shapes(load(path)).graph
    infos = (*graph.value_info, *graph.output)
    wide = {info.name for info in infos if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return [node.name for node in graph.node if node.op_type in WEIGHTED and node.output[0] in wide]
