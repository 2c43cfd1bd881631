"""Ways to run a classifier on images. In: uint8 images [N, H, W, 3] as numpy. Out: float32 logits [N, C] as numpy.

One contract for torch modules and ONNX files, so that every gate and benchmark compares the same thing.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
    RuntimeException,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as OrtNotImplemented
from torch import nn

from compress.system.errors import InputError
from export.onnx.file import INPUT_NAME, OUTPUT_NAME


class Runtime(Protocol):
    """Anything that turns images into logits."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, C]."""
        ...


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W], (x / 255 - mean) / std with mean and std in 0..1 per channel."""
    scaled = images.astype(np.float32) / np.float32(255.0)
    scaled = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def default_threads() -> int:
    """CPUs this process may really use: the smaller of its affinity and its cgroup's quota.

    ONNX Runtime counts the host's cores instead, and in a container with a quota its threads then fight for time.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cgroup_cpus()
    return max(1, min(allowed, int(quota)) if quota is not None else allowed)


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The CPU quota of this container in cores (cgroup v2, then v1), or None without one."""
    try:
        if (root / "cpu.max").exists():
            limit, period = (root / "cpu.max").read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        limit_us = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return limit_us / period_us if limit_us > 0 else None


def open_session(
    path: Path,
    threads: int | None = None,
    *,
    optimized_path: Path | None = None,
    disabled_optimizers: Sequence[str] = (),
) -> ort.InferenceSession:
    """An ONNX Runtime CPU session with its threads set. `optimized_path`: also write the graph that it really runs.

    Raises InputError where the file is missing, damaged, or holds an operator that ONNX Runtime lacks.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or default_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    try:
        return ort.InferenceSession(
            str(path), options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers)
        )
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OrtNotImplemented) as error:
        raise InputError(
            f"ONNX Runtime cannot open {path}: {error}", "Check that the file is whole, or export it again"
        ) from error


class OrtRuntime:
    """An ONNX file with input "input" (float32 NCHW) and output "logits" on the CPU.

    `literal`: quantise only what the file says. ONNX Runtime otherwise also quantises biases, and weights between
    quantised activations, which TensorRT does not.
    """

    def __init__(
        self,
        path: Path,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        threads: int | None = None,
        batch_size: int = 64,
        literal: bool = False,
    ) -> None:
        disabled = ["WeightBiasQuantization"] if literal else []
        self.path, self.session = path, open_session(path, threads, disabled_optimizers=disabled)
        self.mean, self.std, self.batch_size = mean, std, batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = [self.run(normalise(batch, self.mean, self.std)) for batch in batches(images, self.batch_size)]
        return np.concatenate(parts)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""
        try:
            return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0])
        except (Fail, InvalidArgument, RuntimeException, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"{self.path.name} does not run on input {inputs.shape}: {reason}",
                'It must take "input", float32 NCHW, and give "logits"',
            ) from error


class TorchRuntime:
    """A torch module in eval mode and float32, on the device that its parameters are on."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], *, batch_size: int = 64) -> None:
        self.model, self.mean, self.std, self.batch_size = model, mean, std, batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = [self.run(normalise(batch, self.mean, self.std)) for batch in batches(images, self.batch_size)]
        return np.concatenate(parts)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch. Its modules' modes are restored."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            parameter = next(self.model.parameters())
            with torch.inference_mode():
                logits = self.model(torch.from_numpy(inputs).to(parameter.device, parameter.dtype))
            return logits.float().cpu().numpy()
        finally:
            for module, training in modes.items():
                module.training = training
