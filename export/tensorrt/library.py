"""The TensorRT library: `tensorrt` or TensorRT for RTX (`tensorrt_rtx_bindings`), which share one API.

It is imported when it is first needed. The rest of the package works without it.
"""

import functools
import importlib
import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import MachineError, UsageError, install_extra

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


def capabilities(wanted: Sequence[str]) -> list[Any]:
    """The library's own names of compute capabilities, such as "89" for SM89.

    Raises:
        UsageError: it builds only for the GPU that is here, or has no such capability.
    """
    trt = tensorrt()
    known = getattr(trt, "ComputeCapability", None)
    if wanted and known is None:
        raise UsageError(
            "this TensorRT builds only for the GPU that is here",
            f"Leave export.compute_capabilities empty, or use TensorRT for RTX: {rtx_hint()}",
        )
    found = []
    for capability in wanted:
        name = f"SM{_plain(capability)}"
        if not hasattr(known, name):
            choice = ", ".join(sorted(item for item in dir(known) if item.startswith("SM")))
            raise UsageError(f"{trt.__name__} has no compute capability {capability!r}", f"It has {choice}")
        found.append(getattr(known, name))
    return found


def built_for(wanted: Sequence[str], major: int, minor: int) -> bool:
    """Whether engines for these compute capabilities run on a GPU of that one. For none they are made for it."""
    return not wanted or f"{major}{minor}" in {_plain(capability).rstrip("AF") for capability in wanted}


def _plain(capability: str) -> str:
    """As in TensorRT's names: 89 of 89, 8.9, SM89 and sm8.9."""
    return capability.upper().removeprefix("SM").replace(".", "")


def check_version_compatible() -> None:
    """Raises UsageError where this library builds no engines that its later versions open.

    Such an engine brings a lean runtime (libnvinfer_lean), which TensorRT for RTX does not ship.
    """
    if (name := tensorrt().__name__).startswith("tensorrt_rtx"):
        raise UsageError(
            f"{name} builds no engines that later versions open (export.version_compatible)",
            f"Leave export.version_compatible false, or build with TensorRT: {install_extra('trt')}",
        )


def driver_version() -> str | None:
    """Of NVIDIA's driver, such as 580.65.06. None where nvidia-smi is not there or does not answer."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)
