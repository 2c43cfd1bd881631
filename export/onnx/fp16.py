"""FP16 weights and activations with FP32 inputs and outputs, so that callers need not change.

The graph is strongly typed: every tensor's type stands in the file, which is how TensorRT takes its precision. An
operator whose values FP16 cannot hold stays in FP32.
"""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from compress.system.errors import GateError
from export.onnx.file import load, save

FP16_MAX = float(np.finfo(np.float16).max)
# What was seen on calibration images; other images go further. ModelOpt's AutoCast keeps operators in FP32 likewise.
LARGEST_IN_FP16 = 6e4


def float_operators(src: Path, largest: Mapping[str, float]) -> list[str]:
    """The operators that must stay in FP32: an input, an output or a weight of theirs goes beyond what FP16 holds.

    Args:
        src: a float32 ONNX file.
        largest: the largest magnitude by tensor (`largest_values`).

    Returns:
        Names of nodes, in graph order.
    """
    graph = load(src).graph
    beyond = {name for name, value in largest.items() if not value <= LARGEST_IN_FP16}
    beyond |= {tensor.name for tensor in graph.initializer if not _largest_weight(tensor) <= FP16_MAX}
    return [node.name for node in graph.node if beyond.intersection((*node.input, *node.output))]


def to_fp16(src: Path, dst: Path, *, keep_float: Collection[str] = ()) -> None:
    """Write the FP16 form of an ONNX file. "input" and "logits" stay float32.

    Args:
        src: a float32 ONNX file.
        dst: the file to write.
        keep_float: names of nodes that stay in FP32, between casts.

    Raises:
        InputError: `src` is missing or damaged.
        GateError: a weight lies outside FP16's range. Clamped to it, it would be a different model.
    """
    model = load(src)
    converted = {name for node in model.graph.node if node.name not in keep_float for name in node.input}
    for tensor in model.graph.initializer:
        largest = _largest_weight(tensor)
        if not (largest <= FP16_MAX or (np.isfinite(largest) and tensor.name not in converted)):
            raise GateError(
                f"weight {tensor.name} reaches {largest:g}, FP16 allows {FP16_MAX:g}", "Keep this model in FP32 or INT8"
            )
    _drop_types_of_weights(model.graph)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_float_to_float16(model, keep_io_types=True, node_block_list=list(keep_float))
    _join_float_operators(model.graph, keep_float)
    # The converter appends its casts at the end; ONNX wants producers before consumers.
    OnnxModel.graph_topological_sort(model.graph)
    save(onnx.shape_inference.infer_shapes(model), dst)


def _drop_types_of_weights(graph: onnx.GraphProto) -> None:
    """torch notes the type of each weight twice. The converter changes the note, also of one that it keeps in float.

    A Resize's scales are such: the converter then casts what it takes for half.
    """
    weights = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _join_float_operators(graph: onnx.GraphProto, keep_float: Collection[str]) -> None:
    """Between two operators in FP32 the converter casts to FP16 and back, where the value would overflow after all.

    What an operator in FP32 takes from integers is cast to FP32 at once.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    floats = {output for node in graph.node if node.name in keep_float for output in node.output}
    floats |= {entry.name for entry in graph.input}
    exact: dict[str, str] = {}
    for node in graph.node:
        before = made_by.get(node.input[0]) if _casts(node, TensorProto.FLOAT) else None
        if before is not None and _casts(before, TensorProto.FLOAT16):
            if before.input[0] in floats:
                exact[node.output[0]] = before.input[0]
            else:
                node.input[0] = before.input[0]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = exact.get(name, name)
    for target in (TensorProto.FLOAT, TensorProto.FLOAT16):
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        left = [node for node in graph.node if not (_casts(node, target) and node.output[0] not in used)]
        del graph.node[:]
        graph.node.extend(left)


def _casts(node: onnx.NodeProto, target: int) -> bool:
    return node.op_type == "Cast" and any(each.name == "to" and each.i == target for each in node.attribute)


def _largest_weight(tensor: onnx.TensorProto) -> float:
    """The largest magnitude of a float32 tensor, infinite where one is not a number; 0 of another type."""
    if tensor.data_type != TensorProto.FLOAT:
        return 0.0
    largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
    return largest if largest == largest else float("inf")


def write_emulation(src: Path, dst: Path) -> None:
    """Write a float32 graph that gives what FP16 hardware gives, also where ONNX Runtime has no FP16 kernels.

    ONNX Runtime's CPU provider computes an FP16 graph in float32, and drops the casts between its nodes: what overflows
    in FP16 then seems right. Here each FP16 tensor is float32, and is rounded to FP16 and back where it is made. A node
    itself computes in float32, as tensor cores add up.

    Args:
        src: an FP16 ONNX file.
        dst: the file to write.
    """
    model = onnx.shape_inference.infer_shapes(load(src))
    graph = model.graph
    infos = (*graph.value_info, *graph.output, *graph.input)
    half = {info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT16}
    for tensor in graph.initializer:
        _widen(tensor)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _widen(attribute.t)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in half:
                exact, rounded = f"{name}__exact", f"{name}__half"
                node.output[index] = exact
                nodes.append(helper.make_node("Cast", [exact], [rounded], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [rounded], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    save(model, dst)


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
