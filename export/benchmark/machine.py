"""Where a benchmark ran: processor and its flags, cores that may be used, GPU, versions of the libraries."""

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from compress.system.distribution import version
from export.benchmark.results import Machine
from export.onnx import default_threads

_PACKAGES = ("compress", "torch", "timm", "numpy", "scipy", "onnx", "onnxruntime")
_OPTIONAL = ("tensorrt", "tensorrt-rtx-cu13-bindings")


def this_machine() -> Machine:
    """The machine at hand, as benchmark.json has it."""
    cpu, flags = _processor()
    return Machine(
        cpu=cpu,
        cpu_flags=flags,
        cores_allowed=default_threads(),
        cores_of_host=os.cpu_count() or 1,
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"python": platform.python_version(), **_versions()},
    )


def _processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The model's name and the sorted flags of the first processor. Only Linux knows the flags."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    first: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        first.setdefault(key.strip(), value.strip())
    name = first.get("model name") or platform.processor() or platform.machine()
    return name, sorted((first.get("flags") or first.get("Features") or "").split())


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in _PACKAGES}
    for package in _OPTIONAL:
        try:
            found[package] = version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
