"""Bias correction: what INT8 moves the mean of a layer's outputs by is taken off its bias.

In: a calibrated Quantizer and its images. Out: a Quantizer of the corrected model. Nagel et al. 2019, "Data-free
quantization through weight equalization and bias correction", section 4.2, with the mean measured on images.
"""

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.int8.layers import QuantizedLayer, linear, quantized_layers
from export.int8.quantize import Quantizer, Target
from export.onnx import measured, save
from export.runtimes import batches_to_measure, normalise

_IMAGES = "correction/axis_of_images"


def corrected(
    quantizer: Quantizer,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    target: Target,
    threads: int | None = None,
) -> Quantizer:
    """The same with biases that make up for the rounding of weights and inputs.

    A convolution is linear, so the mean of its outputs follows from the mean of its inputs at each place. Each layer is
    corrected for itself, as if those before it were exact: once they are corrected, their means are.

    Args:
        quantizer: calibrated already.
        images: uint8 [N, H, W, C], of the training split.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        target: which of the two INT8 forms.
        threads: of ONNX Runtime; None takes what this process may use.
    """
    with TemporaryDirectory() as folder:
        written, plain = Path(folder) / "int8.onnx", Path(folder) / "float.onnx"
        quantizer.write(written, target=target)
        layers = quantized_layers(written)
        save(quantizer.model, plain)
        inputs = {node.input[0]: layers[node.name] for node in quantizer.model.graph.node if node.name in layers}
        normalised = (normalise(batch, mean, std) for batch in batches_to_measure(images))
        means = _means(plain, inputs, normalised, len(images), threads)
    model = onnx.ModelProto()
    model.CopyFrom(quantizer.model)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name in layers and node.input[1] in constants:
            exact, rounded = means[node.input[0]]
            wanted = linear(node, exact, constants[node.input[1]])
            _add_to_bias(model.graph, node, constants, wanted - linear(node, rounded, layers[node.name].weight))
    other = copy.copy(quantizer)
    other.model = model
    return other


def _means(
    path: Path, inputs: Mapping[str, QuantizedLayer], images: Iterable[np.ndarray], count: int, threads: int | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The mean over images of each tensor as it is, and as it is after rounding to INT8."""
    constants, reductions = [numpy_helper.from_array(np.array([0]), _IMAGES)], {}
    for name, layer in inputs.items():
        scale, zero = f"{name}/scale", f"{name}/zero"
        for tensor, known in ((layer.input_scale, scale), (layer.input_zero, zero)):
            constants.append(numpy_helper.from_array(numpy_helper.to_array(tensor), known))
        reductions[f"exact {name}"] = functools.partial(_sum, name)
        reductions[f"rounded {name}"] = functools.partial(_rounded_sum, name, scale, zero)
    sums = measured(path, reductions, images, np.add, threads, constants)
    return {name: (sums[f"exact {name}"] / count, sums[f"rounded {name}"] / count) for name in inputs}


def _sum(name: str, output: str) -> list[onnx.NodeProto]:
    return [helper.make_node("ReduceSum", [name, _IMAGES], [output], keepdims=0)]


def _rounded_sum(name: str, scale: str, zero: str, output: str) -> list[onnx.NodeProto]:
    whole, rounded = f"{output}/whole", f"{output}/rounded"
    return [
        helper.make_node("QuantizeLinear", [name, scale, zero], [whole]),
        helper.make_node("DequantizeLinear", [whole, scale, zero], [rounded]),
        *_sum(rounded, output),
    ]


def _add_to_bias(
    graph: onnx.GraphProto, node: onnx.NodeProto, constants: Mapping[str, np.ndarray], shift: np.ndarray
) -> None:
    """Gives the layer a bias of its own: another may share the one that it has."""
    before = constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros_like(shift)
    name = f"{node.name}/corrected_bias"
    graph.initializer.append(numpy_helper.from_array((before + shift).astype(np.float32), name))
    del node.input[2:]
    node.input.append(name)
