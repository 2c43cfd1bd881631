"""INT8 graphs by quantising after training. In: an FP32 ONNX file and calibration images. Out: Q/DQ graphs.

There are two forms: one for ONNX Runtime, one for TensorRT. Fine-tuning for INT8 is compress.training.qat.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.int8.files import int8_files
    from export.int8.macs import WEIGHTED, float32_layers, layer_macs
    from export.int8.quantize import Quantizer, has_vnni

__all__ = ["WEIGHTED", "Quantizer", "float32_layers", "has_vnni", "int8_files", "layer_macs"]

_HOMES = {
    "int8_files": "export.int8.files",
    "WEIGHTED": "export.int8.macs",
    "float32_layers": "export.int8.macs",
    "layer_macs": "export.int8.macs",
    "Quantizer": "export.int8.quantize",
    "has_vnni": "export.int8.quantize",
}
__getattr__ = hand_on(__name__, _HOMES)
