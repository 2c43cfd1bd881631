"""What TensorRT's parser would refuse in an ONNX file, found without TensorRT."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.onnx import load

# What the parser of TensorRT for RTX 1.7 has an importer for (OnnxParser.supports_operator).
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow
Cast CastLike CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum
DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If InstanceNormalization IsInf
IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax Loop LpNormalization
LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or
PRelu Pad Pow QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round STFT Scan Scatter ScatterElements
ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze
Sub Sum Swish Tan Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
ALLOWED_OPERATORS = frozenset(_NAMES.split())
REDUCTIONS = frozenset(name for name in ALLOWED_OPERATORS if name.startswith("Reduce"))
# Other ways from an output's coordinate to the input's are refused.
RESIZE_COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")
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
        elif node.op_type == "Resize":
            found += [f"{where}: {problem}" for problem in _resize_problems(node)]
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            found += [f"{where}: {problem}" for problem in _pair_problems(node, constants, producers)]
    return found


def _resize_problems(node: onnx.NodeProto) -> list[str]:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    problems = []
    if "antialias" in attributes and attributes["antialias"].i:
        problems.append("TensorRT has no antialiasing")
    coordinates = attributes.get("coordinate_transformation_mode")
    if coordinates is not None and coordinates.s.decode() not in RESIZE_COORDINATES:
        problems.append(f"TensorRT has no coordinates {coordinates.s.decode()}")
    return problems


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
