"""The TensorRT library: `tensorrt` or TensorRT for RTX (`tensorrt_rtx_bindings`), which share one API.

It is imported when it is first needed. The rest of the package works without it.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import MachineError, install_extra

LIBRARIES = ("tensorrt", "tensorrt_rtx_bindings")


@functools.cache
def tensorrt() -> ModuleType:
    """The TensorRT library that is here. Raises MachineError where there is none."""
    for name in LIBRARIES:
        try:
            return importlib.import_module(name)
        except (ImportError, OSError):
            continue
    raise MachineError(
        "TensorRT is not installed", f"{install_extra('trt')}, or '{DISTRIBUTION}[trt-rtx]' to build without a GPU"
    )


def rtx_hint() -> str:
    """How to get TensorRT for RTX."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        return install_extra("trt-rtx")
    return "it is here, and is taken once tensorrt, which goes before it, is uninstalled"


@functools.cache
def tensorrt_logger() -> Any:
    """TensorRT takes one logger for the whole process. This one keeps the errors, so that they can be shown."""
    trt = tensorrt()

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def last(self) -> str:
            return self.errors[-1] if self.errors else "no reason given"

    return Logger()


def gpu_object(make: Callable[[], Any], what: str) -> Any:
    """What a factory of TensorRT makes. Raises MachineError.

    The factories answer a missing GPU or driver with None, which pybind11 turns into a TypeError.
    """
    try:
        made = make()
    except (TypeError, RuntimeError):
        made = None
    if made is None:
        raise MachineError(
            f"TensorRT cannot make its {what} here: {tensorrt_logger().last()}",
            f"It needs an NVIDIA GPU and driver; TensorRT for RTX builds without one: {rtx_hint()}",
        )
    return made
