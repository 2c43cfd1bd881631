"""OpenVINO as a runtime to time: the only module of `pick` that knows it.

In: an ONNX file. Out: a function that runs a batch on the CPU.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from compress.system.errors import MachineError, install_extra

_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}
"""What is not in INT8 is computed in this type."""


def installed() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec("openvino") is not None


def require() -> None:
    """Raises MachineError where OpenVINO is not installed."""
    if not installed():
        raise MachineError("OpenVINO is not installed", f"Install it: {install_extra('openvino')}")


def computes_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def open_openvino(path: Path, precision: str, threads: int) -> Callable[[np.ndarray], object]:
    """Compiles an ONNX file for the CPU, for one request at a time. precision: fp32, bf16 or int8."""
    import openvino

    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }
    request = openvino.Core().compile_model(str(path), "CPU", options).create_infer_request()
    return lambda inputs: request.infer([inputs], share_inputs=True, share_outputs=True)
