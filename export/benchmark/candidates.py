"""What a benchmark compares: teacher and student in torch, and every file of the run's export folder.

In: a finished run. Out: Candidates, whose files have the hashes that were recorded, each with a way to run it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from compress import models
from compress.runs.folder import Run
from compress.runs.student import load_student
from compress.system.errors import CompressError, InputError
from compress.system.files import sha256_file
from export.benchmark.latency import Clock, cuda_clock, host_clock
from export.folder import ExportFolder, read_export
from export.onnx import INPUT_NAME, OUTPUT_NAME, get_metadata, open_session
from export.records import PRECISIONS, Precision
from export.runtimes import OrtRuntime, TorchRuntime, normalise

RuntimeName = Literal["torch", "ort", "trt"]
Role = Literal["teacher", "student"]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "ort", "trt")
TEACHER, STUDENT, STUDENT_FILE = "teacher.torch", "student.torch", "student.onnx"

_KINDS: tuple[tuple[RuntimeName, Precision, Callable[[ExportFolder, Precision], Path]], ...] = (
    *(("ort", precision, ExportFolder.onnx) for precision in PRECISIONS),
    ("trt", "int8", ExportFolder.trt_onnx),
    *(("trt", precision, ExportFolder.engine) for precision in PRECISIONS),
)
"""Every file that an export can leave of a model, but for the one that takes pixels."""


@dataclass(frozen=True)
class Candidate:
    """A model in a runtime that may be benchmarked. `path`: an ONNX file, an engine, or a model folder of torch's."""

    name: str
    role: Role
    runtime: RuntimeName
    precision: Precision
    path: Path
    sha256: str
    size_bytes: int
    mean: Sequence[float]
    std: Sequence[float]
    module: nn.Module | None = None

    @property
    def proxy(self) -> bool:
        """TensorRT's Q/DQ graph: ONNX Runtime can say how accurate it is, but not how fast TensorRT runs it."""
        return self.name.endswith(".trt.onnx")

    @property
    def engine(self) -> bool:
        """Whether it is a TensorRT engine."""
        return self.name.endswith(".engine")


class Opened(Protocol):
    """A ready candidate. `run` takes what `prepare` made of uint8 pixels [B, H, W, 3]. `fetch` brings logits home."""

    clock: Clock

    def prepare(self, pixels: np.ndarray) -> Any: ...

    def run(self, prepared: Any) -> Any: ...

    def fetch(self, logits: Any) -> np.ndarray: ...


def find_candidates(run: Run) -> list[Candidate]:
    """Teacher, student, and the files that their exports recorded, in the order of the waterfall.

    Raises:
        InputError: the run has no export or one of other weights, or a file is missing or not the one that was
            recorded.
    """
    files = {"student": read_export(run).files, "teacher": {}}
    if ExportFolder(run.export, "teacher").record_file.exists():
        files["teacher"] = read_export(run, "teacher").files
    student = load_student(run)
    teacher = models.load_model(run.teacher)
    if sha256_file(run.teacher / models.WEIGHTS) != run.result.teacher.sha256:
        raise InputError(f"{run.teacher / models.WEIGHTS} was altered: its hash is not the manifest's")
    in_torch = [_torch_candidate("teacher", teacher, run.teacher), _torch_candidate("student", student, run.student)]
    exported = []
    for runtime, precision, path_in in _KINDS:
        for own in in_torch:
            path = path_in(ExportFolder(run.export, own.role), precision)
            if path.name in files[own.role]:
                exported.append(_exported(path, files[own.role][path.name].sha256, own, runtime, precision))
    return in_torch + exported


def _exported(path: Path, recorded: str, own: Candidate, runtime: RuntimeName, precision: Precision) -> Candidate:
    """A file that is what export.json says. `own`: the model that it was made of."""
    if not path.is_file() or sha256_file(path) != recorded:
        raise InputError(
            f"{path} is missing or was altered: its hash is not export.json's", "Run `compress export` again."
        )
    mean, std = _normalisation(path) if path.suffix == ".onnx" else (own.mean, own.std)
    return Candidate(path.name, own.role, runtime, precision, path, recorded, path.stat().st_size, mean, std)


def reason_not_timed(candidate: Candidate, runtimes: Collection[str]) -> str | None:
    """Why there will be no latency, or None where there will be. A latency that was not run is never written."""
    if candidate.runtime not in runtimes:
        return f"runtime {candidate.runtime} was not asked for"
    if candidate.proxy:
        return "made for TensorRT, whose speed ONNX Runtime does not show"
    if candidate.engine and not torch.cuda.is_available():
        return "no GPU here"
    return None


def evaluate(candidate: Candidate, images: np.ndarray, threads: int) -> np.ndarray:
    """float32 logits [N, C] of uint8 images [N, H, W, 3], normalised with the model's own mean and std."""
    if candidate.module is not None:
        return TorchRuntime(candidate.module, candidate.mean, candidate.std)(images)
    if candidate.engine:
        from export.tensorrt import EngineRunner, EngineRuntime

        return EngineRuntime(EngineRunner(candidate.path), candidate.mean, candidate.std)(images)
    return OrtRuntime(candidate.path, candidate.mean, candidate.std, threads=threads, literal=candidate.proxy)(images)


def open_candidate(candidate: Candidate, threads: int) -> Opened:
    """Loads it, ready to be timed. Raises InputError or MachineError where it cannot be opened here."""
    if candidate.module is not None:
        return _Torch(candidate)
    return _Engine(candidate) if candidate.engine else _Ort(candidate, threads)


def try_evaluate(candidate: Candidate, images: np.ndarray, threads: int) -> np.ndarray | str:
    """The logits of `evaluate`, or why there are none: an engine needs a GPU that it was built for."""
    if candidate.engine and not torch.cuda.is_available():
        return "no GPU here"
    try:
        return evaluate(candidate, images, threads)
    except CompressError as error:
        if candidate.engine:
            return str(error)
        raise


class _Torch:
    """A module in torch eager, float32, on the CPU."""

    def __init__(self, candidate: Candidate) -> None:
        assert candidate.module is not None
        self.candidate, self.module = candidate, candidate.module.eval()
        self.clock: Clock = host_clock

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.candidate.mean, self.candidate.std))

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.module(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.numpy()


class _Ort:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        self.candidate = candidate
        self.clock: Clock = host_clock
        # Spinning threads would take the cores that the next candidate needs.
        self.session = open_session(candidate.path, threads, stop_spinning=True)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return normalise(pixels, self.candidate.mean, self.candidate.std)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: prepared})[0])

    def fetch(self, logits: np.ndarray) -> np.ndarray:
        return logits


class _Engine:
    """A TensorRT engine behind a CUDA graph; the model alone is timed by CUDA events. Not run on a GPU yet."""

    def __init__(self, candidate: Candidate) -> None:
        from export.tensorrt import EngineRunner

        self.candidate, self.runner = candidate, EngineRunner(candidate.path)
        self.clock: Clock = cuda_clock(self.runner.stream)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.candidate.mean, self.candidate.std)).to(self.runner.device)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        return self.runner(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.cpu().numpy()


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    metadata = get_metadata(path)
    try:
        mean, std = ([float(value) for value in metadata[key].split(",")] for key in ("mean", "std"))
    except (KeyError, ValueError):
        raise InputError(f"{path} does not say its mean and std", "Run `compress export` again.") from None
    return mean, std


def _torch_candidate(role: Role, module: nn.Module, folder: Path) -> Candidate:
    cfg = models.read_config(folder)["pretrained_cfg"]
    weights = folder / models.WEIGHTS
    return Candidate(
        f"{role}.torch",
        role,
        "torch",
        "fp32",
        folder,
        sha256_file(weights),
        weights.stat().st_size,
        cfg["mean"],
        cfg["std"],
        module,
    )
