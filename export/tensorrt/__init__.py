"""TensorRT engines. In: an ONNX file. Out: an engine with the sidecar that says what it is, and a way to run it."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.tensorrt.engines import engine_files
    from export.tensorrt.library import LIBRARIES, tensorrt
    from export.tensorrt.runtime import EngineRunner, EngineRuntime

__all__ = ["LIBRARIES", "EngineRunner", "EngineRuntime", "engine_files", "tensorrt"]

_HOMES = {
    "LIBRARIES": "export.tensorrt.library",
    "tensorrt": "export.tensorrt.library",
    "engine_files": "export.tensorrt.engines",
    "EngineRunner": "export.tensorrt.runtime",
    "EngineRuntime": "export.tensorrt.runtime",
}
__getattr__ = hand_on(__name__, _HOMES)
