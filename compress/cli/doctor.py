"""Examines what this machine offers: versions, processors, GPU, data and disk."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from pathlib import Path

from compress.data.sources import LAYOUTS, find
from compress.system import files
from compress.system.errors import CompressError, MachineError
from compress.system.platform import usable_cpus
from compress.system.versions import version


def examine() -> dict[str, str]:
    """What this machine offers, as names and values for people and for `--json`."""
    import torch

    facts = {"python": platform.python_version()}
    for package in ("compress", "torch", "torchvision", "timm", "onnx", "onnxruntime"):
        facts[package] = _version(package)
    facts["openvino"] = _openvino()
    for module, package in (("tensorrt", "tensorrt"), ("tensorrt_rtx_bindings", "tensorrt-rtx-cu13-bindings")):
        found = importlib.util.find_spec(module) is not None
        facts[package] = _version(package) if found else "not installed"
    facts["processors"] = f"{usable_cpus()} usable of {os.cpu_count()}"
    facts["cpu"] = torch.backends.cpu.get_cpu_capability()
    facts["threads"] = str(torch.get_num_threads())
    facts["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
    published = [name for name in LAYOUTS if name not in ("folder", "csv", "hub")]
    facts["data"] = ", ".join(name for name in published if find(name, None)) or "none here"
    facts["cache"] = _cache()
    facts["free disk"] = f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB here"
    return facts


def _openvino() -> str:
    from export.openvino import unusable

    return unusable().removeprefix("OpenVINO is ") or _version("openvino")


def _cache() -> str:
    try:
        return str(files.cache_folder())
    except CompressError as error:
        return f"none: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except (importlib.metadata.PackageNotFoundError, MachineError):
        return "not installed"
