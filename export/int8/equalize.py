"""Cross-layer equalisation around depthwise convolutions: their channels get ranges alike, so that 8 bits serve all.

In: a float32 ONNX file and training images. Out: an ONNX file that computes the same. After Nagel et al. 2019,
"Data-free quantization through weight equalization and bias correction", section 4.1. Our weights have a scale for each
channel of their output, so what is equalised is what they lack: the ranges of activations, measured on images.
"""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.int8.layers import attributes
from export.onnx import load, measured, save
from export.runtimes import batches_to_measure, normalise

_AXES = "equalisation/axes"
# A channel is enlarged by at most so much, and as if its largest value were so much larger than seen.
_MOST, _HEADROOM = 64.0, 1.25
_TINY = 1e-12


@dataclass(frozen=True)
class _Pair:
    """Two convolutions with nothing but a ReLU, or a clip from 0 up, in between. `tensor`: what the second is given."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    tensor: str


def equalized(
    src: Path, dst: Path, images: np.ndarray, mean: Sequence[float], std: Sequence[float], threads: int | None = None
) -> int:
    """Write the equalised file, where there is a depthwise convolution to do it at.

    A value beyond a clip (ReLU6) stays clipped where it was, or at 1.25 times what the channel reached on the images:
    an INT8 range clips likewise.

    Args:
        src: a float32 ONNX file.
        dst: the file to write.
        images: uint8 [N, H, W, C], of the training split.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        The number of pairs of convolutions that were equalised. Where it is 0 no file is written.
    """
    model = load(src)
    pairs = _pairs(model.graph)
    if not pairs:
        return 0
    axes = numpy_helper.from_array(np.array([0, 2, 3]), _AXES)
    reductions = {pair.tensor: functools.partial(_largest, pair.tensor) for pair in pairs}
    inputs = (normalise(batch, mean, std) for batch in batches_to_measure(images))
    largest = measured(src, reductions, inputs, np.maximum, threads, [axes])
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for pair in pairs:
        _scale(pair, largest[pair.tensor], weights)
    save(model, dst)
    return len(pairs)


def _largest(tensor: str, output: str) -> list[onnx.NodeProto]:
    magnitude = f"{output}/magnitude"
    return [
        helper.make_node("Abs", [tensor], [magnitude]),
        helper.make_node("ReduceMax", [magnitude, _AXES], [output], keepdims=0),
    ]


def _pairs(graph: onnx.GraphProto) -> list[_Pair]:
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(output.name for output in graph.output)
    found = []
    for second in graph.node:
        if second.op_type != "Conv":
            continue
        tensor, between = second.input[0], made_by.get(second.input[0])
        clipped = between is not None and between.op_type == "Clip" and _from_zero(between, weights)
        plain = between is not None and between.op_type == "Relu"
        first = made_by.get(between.input[0]) if between is not None and (clipped or plain) else between
        if first is None or first.op_type != "Conv" or uses[first.output[0]] != 1 or uses[tensor] != 1:
            continue
        own = [*first.input[1:], second.input[1]]
        if all(name in weights and uses[name] == 1 for name in own) and (
            _depthwise(first, weights) or _depthwise(second, weights)
        ):
            found.append(_Pair(first, second, tensor))
    return found


def _from_zero(clip: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    return len(clip.input) > 1 and clip.input[1] in weights and not numpy_helper.to_array(weights[clip.input[1]]).any()


def _depthwise(conv: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    outputs, inputs = weights[conv.input[1]].dims[:2]
    return inputs == 1 and attributes(conv).get("group", 1) == outputs > 1


def _scale(pair: _Pair, largest: np.ndarray, weights: Mapping[str, onnx.TensorProto]) -> None:
    """Divides the first's outputs by a factor for each channel, and multiplies the second's weights by it."""
    after = numpy_helper.to_array(weights[pair.second.input[1]])
    free = _depthwise(pair.second, weights)
    if not free and attributes(pair.second).get("group", 1) != 1:
        return
    shape = (-1, 1, 1, 1) if free else (1, -1, 1, 1)
    factors = _factors(largest, None if free else np.abs(after).max(axis=(0, 2, 3)))
    _replace(weights[pair.second.input[1]], after * factors.reshape(shape))
    for name in pair.first.input[1:]:
        before = numpy_helper.to_array(weights[name])
        _replace(weights[name], before / factors.reshape(-1, *[1] * (before.ndim - 1)))


def _factors(largest: np.ndarray, reach: np.ndarray | None) -> np.ndarray:
    """For each channel a factor of at most 1, which enlarges small activations, but none beyond the largest of all.

    Args:
        largest: magnitude of each channel's activations.
        reach: magnitude of the weights behind it, which share a scale with other channels': the geometric mean of what
            suits the two is taken, as in the paper's equation 8. None where each channel has a scale of its own.
    """
    factors = np.clip(_HEADROOM * largest / max(float(largest.max()), _TINY), 1 / _MOST, 1.0)
    if reach is not None:
        wanted = np.sqrt(largest / np.maximum(reach, _TINY))
        factors = np.maximum(factors, wanted / max(float(wanted.max()), _TINY))
    return np.where(largest > 0, factors, 1.0).astype(np.float32)


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), tensor.name))
