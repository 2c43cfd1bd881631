"""Where a benchmark ran: processor and its flags, cores that may be used, GPU, versions of the libraries."""

import importlib.metadata
import os
import platform

import torch

from compress.system.platform import load_average, processor
from compress.system.versions import version
from export.benchmark.results import Machine
from export.onnx import default_threads

_PACKAGES = ("compress", "torch", "timm", "numpy", "pillow", "scipy", "onnx", "onnxruntime")
_OPTIONAL = ("openvino", "tensorrt", "tensorrt-rtx-cu13-bindings")


def this_machine() -> Machine:
    """The machine at hand, as benchmark.json has it."""
    cpu, flags = processor()
    load = load_average()
    return Machine(
        cpu=cpu,
        cpu_flags=flags,
        cores_allowed=default_threads(),
        cores_of_host=os.cpu_count() or 1,
        load_average=None if load is None else round(load, 2),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        versions={"python": platform.python_version(), **_versions()},
    )


def _versions() -> dict[str, str]:
    found = {package: version(package) for package in _PACKAGES}
    for package in _OPTIONAL:
        try:
            found[package] = version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
