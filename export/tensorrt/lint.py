"""What TensorRT's parser would refuse in an ONNX file, found without TensorRT."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.onnx import load

# Of the operators that TensorRT's ONNX parser reads, those that image classifiers from torch use.
_NAMES = """
Abs Add And AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos CumSum
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements Gelu Gemm
GlobalAveragePool GlobalMaxPool Greater GroupNormalization HardSigmoid HardSwish Identity If InstanceNormalization
LayerNormalization LeakyRelu Less Log LogSoftmax MatMul Max MaxPool Min Mish Mul Neg Not Pad Pow PRelu QuantizeLinear
Range Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum Relu Reshape Resize Selu Shape Sigmoid Sign Sin
Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where
"""
ALLOWED_OPERATORS = frozenset(_NAMES.split())
REDUCTIONS = frozenset(name for name in ALLOWED_OPERATORS if name.startswith("Reduce"))
QUANTISED_TYPES = (TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN)


def lint_for_tensorrt(onnx_path: Path) -> list[str]:
    """Why TensorRT would not take an ONNX file.

    Returns:
        Every reason, with the node's name and operator. Empty where TensorRT would take it.
    """
    model = load(onnx_path)
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    found = [
        f"weight {tensor.name} is stored outside the file"
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.EXTERNAL
    ]
    found += [
        f"input {info.name} is uint8, which TensorRT can only cast, and {node.name} ({node.op_type}) takes it"
        for info in graph.input
        if info.type.tensor_type.elem_type == TensorProto.UINT8
        for node in graph.node
        if info.name in node.input and node.op_type not in ("Cast", "Shape")
    ]
    for node in graph.node:
        where = f"{node.name} ({node.op_type})"
        if node.domain not in ("", "ai.onnx"):
            found.append(f"{where}: the operator domain {node.domain} is unknown to TensorRT")
        elif node.op_type not in ALLOWED_OPERATORS:
            found.append(f"{where}: TensorRT has no such operator")
        elif node.op_type in REDUCTIONS and len(node.input) > 1 and node.input[1] and node.input[1] not in constants:
            found.append(f"{where}: its axes are computed, they must be constant")
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found += [f"{where}: {problem}" for problem in _pair_problems(node, constants, producers)]
    return found


def _pair_problems(
    node: onnx.NodeProto, constants: dict[str, TensorProto], producers: dict[str, onnx.NodeProto]
) -> list[str]:
    problems = []
    scale = constants.get(node.input[1])
    if scale is None:
        problems.append("its scale is computed, it must be constant")
    elif not (numpy_helper.to_array(scale) > 0).all():
        problems.append("its scale is not positive")
    if len(node.input) < 3 or not node.input[2]:
        problems.append("it has no zero point and is therefore uint8")
    elif node.input[2] not in constants:
        problems.append("its zero point is computed, it must be constant")
    else:
        zero = constants[node.input[2]]
        if zero.data_type not in QUANTISED_TYPES:
            kind = TensorProto.DataType.Name(zero.data_type).lower()
            problems.append(f"it is {kind}, TensorRT takes only int8, int4 and fp8")
        elif np.asarray(numpy_helper.to_array(zero), np.float32).any():
            problems.append("its zero point is not 0")
    if node.op_type == "DequantizeLinear" and getattr(producers.get(node.input[0]), "op_type", "") != "QuantizeLinear":
        problems.append("its input is not a QuantizeLinear; weights must be float behind a pair")
    return problems
