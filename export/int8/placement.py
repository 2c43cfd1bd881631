"""Where TensorRT wants INT8: which layers, and which inputs of additions. All else is FP16.

In: a float32 graph. Out: a Placement.

METHOD: that of NVIDIA's ModelOpt (nvidia-modelopt 0.47, modelopt/onnx/quantization), written anew:

- Convolutions of fewer than 16 channels stay in float where no kernel suits them (graph_utils.py,
  find_nodes_from_convs_to_exclude).
- So do matrix products that are vectors at batch 1, such as a classifier, and those of a side below 16 (graph_utils.py,
  find_nodes_from_matmul_to_exclude).
- An Add behind a convolution takes the shortcut in INT8, and what the convolution gives as it is: the kernel of the
  convolution then adds, and rounds once (graph_utils.py, build_non_residual_input_map and remove_partial_input_qdq;
  partitioning.py, find_fusible_partitions).
- A MaxPool before a layer in INT8 pools integers (partitioning.py, find_quantizable_nodes). That changes no number.

What ModelOpt quantises beyond that is FP16 here, since it only loses accuracy: the inputs of HardSwish, of the products
of squeeze-and-excitation, of the additions of transformers, and of LayerNorm (tools/README.md has numbers).

Operators that FP16 cannot hold stay in FP32, as in ModelOpt's AutoCast (export.onnx.float_operators).
"""

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from export.int8.layers import attributes
from export.int8.macs import WEIGHTED
from export.onnx import float_operators, save, to_fp16

_SMALL = 16
"""Tensor cores take that many channels at once."""
# What a convolution's kernel does on the way out, and what only moves numbers.
_FUSED = ("Relu", "MaxPool", "Flatten", "Reshape", "Squeeze", "Transpose")


@dataclass(frozen=True)
class Residual:
    """An addition of a shortcut. convolution: whose kernel adds. own: the index of the input that comes from it."""

    convolution: str
    own: int


@dataclass(frozen=True)
class Placement:
    """What becomes INT8. left: layers that stay in float. residuals: by the name of the Add."""

    left: frozenset[str]
    residuals: Mapping[str, Residual]


def place(model: onnx.ModelProto) -> Placement:
    """Finds what becomes INT8 in a float32 graph, whose nodes are in order and have names."""
    graph = model.graph
    constants = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    inputs = {info.name for info in graph.input} - constants.keys()
    shapes = _shapes_of_one_image(model) | constants
    left = {
        node.name
        for node in graph.node
        if (node.op_type == "Conv" and _too_small(node, constants, first=node.input[0] in inputs))
        or (node.op_type in ("Gemm", "MatMul") and _too_thin(node, shapes, constants))
    }
    return Placement(frozenset(left), _residuals(graph, left, constants))


def _shapes_of_one_image(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors at batch 1; 0 stands for what is not known."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    for info in single.graph.input:
        for dim in info.type.tensor_type.shape.dim[:1]:
            dim.dim_value = 1
    for info in single.graph.output:
        info.type.tensor_type.ClearField("shape")
    del single.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    return {
        info.name: tuple(dim.dim_value for dim in info.type.tensor_type.shape.dim)
        for info in (*graph.value_info, *graph.output, *graph.input)
    }


def _too_small(conv: onnx.NodeProto, constants: Mapping[str, tuple[int, ...]], *, first: bool) -> bool:
    """Whether INT8 has no good kernel for its channels, or its weights are computed."""
    if conv.input[1] not in constants:
        return True
    outputs, inputs, *kernel = constants[conv.input[1]]
    if min(outputs, inputs) >= _SMALL:
        return False
    if attributes(conv).get("group", 1) > 1:
        return outputs % 8 != 0 or min(kernel) < 3
    eights = outputs % 8 == 0 or inputs % 8 == 0
    return not (eights and (first or max(outputs, inputs) >= _SMALL) and len(set(kernel)) == 1)


def _too_thin(
    product: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], constants: Mapping[str, tuple[int, ...]]
) -> bool:
    """Whether it is a vector at batch 1, or has a side below 16. What is not known counts as large."""
    output, second = shapes.get(product.output[0], ()), shapes.get(product.input[1], ())
    weighted = bool(constants.keys() & set(product.input[:2]))
    vector = 1 in output[-2:] and not (weighted and len(output) > 2)
    summed = second[-1 if attributes(product).get("transB") else -2] if len(second) > 1 else 0
    return vector or any(0 < side < _SMALL for side in (*output[-1:], summed))


def _residuals(
    graph: onnx.GraphProto, left: Collection[str], constants: Mapping[str, tuple[int, ...]]
) -> dict[str, Residual]:
    """The additions that a convolution's kernel does, where the convolution becomes INT8."""
    made_by = {output: node for node in graph.node for output in node.output}
    before: dict[str, set[str]] = {}
    depth: dict[str, int] = {}
    found = {}
    for node in graph.node:
        sources = [made_by[name] for name in node.input if name in made_by]
        before[node.name] = set().union(*({source.name} | before[source.name] for source in sources))
        depth[node.name] = 1 + max((depth[source.name] for source in sources), default=0)
        if node.op_type != "Add" or any(name not in made_by for name in node.input):
            continue
        candidates = []
        for own, other in ((1, 0), (0, 1)):
            conv = _convolution(node.input[own], made_by, constants)
            shortcut = made_by[node.input[other]]
            # Where the shortcut starts behind the convolution, its kernel would wait for itself.
            if conv is not None and conv.name not in {shortcut.name} | before[shortcut.name]:
                candidates.append((depth[made_by[node.input[own]].name], Residual(conv.name, own)))
        # A shortcut may be convolved, too: it is the shorter way.
        if candidates:
            _, residual = max(candidates, key=lambda pair: pair[0])
            if residual.convolution not in left:
                found[node.name] = residual
    return found


def _convolution(
    tensor: str, made_by: Mapping[str, onnx.NodeProto], constants: Mapping[str, tuple[int, ...]]
) -> onnx.NodeProto | None:
    """The convolution whose kernel gives a tensor."""
    node = made_by.get(tensor)
    while node is not None and node.op_type != "Conv":
        variable = [name for name in node.input if name and name not in constants]
        scaled = node.op_type in ("Add", "Mul") and len(variable) < len(node.input)
        node = made_by.get(variable[0]) if (scaled or node.op_type in _FUSED) and variable else None
    return node


def plain_inputs(graph: onnx.GraphProto, residuals: Mapping[str, Residual], float_nodes: Collection[str]) -> None:
    """Gives layers and sums that stay in float, and from its convolution any sum, what was there before Q and DQ.

    ONNX Runtime's quantiser hands a quantised tensor to all who take it. Pairs that nobody takes then go.
    """
    made_by = {output: node for node in graph.node for output in node.output}

    def restore(node: onnx.NodeProto, index: int) -> None:
        pair = made_by.get(node.input[index])
        if pair is not None and pair.op_type == "DequantizeLinear":
            node.input[index] = made_by[pair.input[0]].input[0]

    for node in graph.node:
        if node.name in float_nodes and (node.op_type in WEIGHTED or node.name in residuals):
            for index in range(len(node.input)):
                restore(node, index)
        elif node.name in residuals:
            restore(node, residuals[node.name].own)
    _drop_idle_pairs(graph)


def pool_integers(graph: onnx.GraphProto) -> None:
    """Puts a pair before each MaxPool whose output is quantised, with the same scale: the largest stays the largest."""
    takers = {name: node for node in graph.node if node.op_type == "QuantizeLinear" for name in node.input[:1]}
    for index, pool in reversed(list(enumerate(graph.node))):
        if pool.op_type == "MaxPool" and pool.output[0] in takers:
            whole, rounded = f"{pool.name}/whole", f"{pool.name}/rounded"
            scale = takers[pool.output[0]].input[1:]
            quantize = onnx.helper.make_node(
                "QuantizeLinear", [pool.input[0], *scale], [whole], f"{pool.name}/quantize"
            )
            dequantize = onnx.helper.make_node(
                "DequantizeLinear", [whole, *scale], [rounded], f"{pool.name}/dequantize"
            )
            pool.input[0] = rounded
            graph.node.insert(index, dequantize)
            graph.node.insert(index, quantize)


def _drop_idle_pairs(graph: onnx.GraphProto) -> None:
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        taken = {name for node in graph.node for name in node.input} | {info.name for info in graph.output}
        for node in [node for node in graph.node if node.op_type == kind and node.output[0] not in taken]:
            graph.node.remove(node)
    taken = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in taken]:
        graph.initializer.remove(tensor)


def to_int8_and_fp16(model: onnx.ModelProto, dst: Path, largest: Mapping[str, float]) -> None:
    """Writes a model with Q/DQ pairs, all of whose floats become FP16, or stay FP32 where FP16 does not hold them.

    Args:
        model: in float32. It is changed.
        dst: the file to write.
        largest: the largest magnitude by tensor (`export.onnx.largest_values`).

    Raises:
        GateError: a weight is not finite.
    """
    _raise_opset(model)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        save(model, plain)
        kept = set(float_operators(plain, _with_pairs(model.graph, largest)))
        kept |= _their_pairs(model.graph, kept)
        _give_own_scales(model.graph, kept)
        save(model, plain)
        to_fp16(plain, dst, keep_float=kept)


def _raise_opset(model: onnx.ModelProto) -> None:
    """Scales in FP16 exist from opset 19. Else it only adds to 18: types, and attributes whose default is as was."""
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, 19)
    model.ir_version = max(model.ir_version, 9)


def _with_pairs(graph: onnx.GraphProto, largest: Mapping[str, float]) -> dict[str, float]:
    """What comes out of a pair is as large as what goes in."""
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    found = dict(largest)
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            source = made_by[node.input[0]].input[0]
            if source in weights:
                found[node.output[0]] = float(np.abs(numpy_helper.to_array(weights[source])).max(initial=0.0))
            elif source in largest:
                found[node.output[0]] = largest[source]
    return found


def _their_pairs(graph: onnx.GraphProto, kept: Collection[str]) -> set[str]:
    """The DequantizeLinear of what a node in FP32 takes, which tells its kernel the type, and all of its weights'."""
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    taken = [made_by[name] for node in graph.node if node.name in kept for name in node.input if name in made_by]
    dequantized = [node for node in taken if node.op_type == "DequantizeLinear"]
    quantized = [made_by[node.input[0]] for node in dequantized]
    return {node.name for node in (*dequantized, *(node for node in quantized if node.input[0] in weights))}


def _give_own_scales(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    """A scale that a node in FP32 shares with one in FP16 would come to it through a Cast, which TensorRT refuses."""
    scales = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.name in kept:
            own = f"{node.name}/scale"
            graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(scales[node.input[1]]), own))
            node.input[1] = own
