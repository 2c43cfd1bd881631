"""FP16 weights and activations with FP32 inputs and outputs, so that callers need not change.

The graph is strongly typed: every tensor's type stands in the file, which is how TensorRT takes its precision.
"""

import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from compress.system.errors import GateError
from export.onnx.file import load, save

FP16_MAX = float(np.finfo(np.float16).max)


def to_fp16(src: Path, dst: Path) -> None:
    """Write the FP16 form of an ONNX file. "input" and "logits" stay float32.

    Args:
        src: a float32 ONNX file.
        dst: the file to write.

    Raises:
        InputError: `src` is missing or damaged.
        GateError: a weight lies outside FP16's range. Clamped to it, it would be a different model.
    """
    model = load(src)
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        largest = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
        if not largest <= FP16_MAX:
            raise GateError(
                f"weight {tensor.name} reaches {largest:g}, FP16 allows {FP16_MAX:g}", "Keep this model in FP32 or INT8"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = convert_float_to_float16(model, keep_io_types=True)
    # The converter appends its casts at the end; ONNX wants producers before consumers.
    OnnxModel.graph_topological_sort(model.graph)
    save(onnx.shape_inference.infer_shapes(model), dst)
