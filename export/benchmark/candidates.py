"""What a benchmark compares: teacher and student in torch, and every file of the run's export folder.

In: a finished run. Out: Models, whose files have the hashes that were recorded, each with a way to run it.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
import torch
from pydantic import BaseModel
from torch import nn

from compress import models
from compress.runs.folder import Run
from compress.runs.student import load_student
from compress.system.errors import CompressError, InputError
from compress.system.files import sha256_file
from export.benchmark.latency import Clock, cuda_clock, host_clock
from export.gates.stage import record_file
from export.onnx.file import INPUT_NAME, OUTPUT_NAME, get_metadata
from export.runtimes import OrtRuntime, TorchRuntime, normalise

RuntimeName = Literal["torch", "ort", "trt"]
Precision = Literal["fp32", "fp16", "int8"]
Role = Literal["teacher", "student"]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "ort", "trt")
ROLES: tuple[Role, ...] = ("teacher", "student")
TEACHER, STUDENT, STUDENT_FILE = "teacher.torch", "student.torch", "student.onnx"

_FILES: dict[str, tuple[RuntimeName, Precision]] = {
    ".onnx": ("ort", "fp32"),
    ".fp16.onnx": ("ort", "fp16"),
    ".int8.onnx": ("ort", "int8"),
    ".int8.trt.onnx": ("trt", "int8"),
    ".engine": ("trt", "fp32"),
    ".fp16.engine": ("trt", "fp16"),
    ".int8.engine": ("trt", "int8"),
}


@dataclass(frozen=True)
class Model:
    """A model that may be benchmarked. `path`: an ONNX file, an engine, or a model folder of torch's."""

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
        return self.name.endswith(".engine")


class Opened(Protocol):
    """A ready model. `run` takes what `prepare` made of uint8 pixels [B, H, W, 3]; `fetch` brings logits home."""

    clock: Clock

    def prepare(self, pixels: np.ndarray) -> Any: ...

    def run(self, prepared: Any) -> Any: ...

    def fetch(self, logits: Any) -> np.ndarray: ...


def find_models(run: Run) -> list[Model]:
    """Teacher, student, and the files that their exports recorded, in the order of the waterfall.

    Raises InputError where the run has no export or one of other weights, or a file is missing or not the one that was
    recorded.
    """
    files = read_export(run)["files"]
    if (run.export / record_file("teacher")).exists():
        files = files | _read_record(run, "teacher")["files"]
    student = load_student(run)
    teacher = models.load_model(run.teacher)
    recorded = run.result.teacher.sha256
    if sha256_file(run.teacher / models.WEIGHTS) != recorded:
        raise InputError(f"{run.teacher / models.WEIGHTS} was altered: its hash is not the manifest's")
    found = [_torch_model("teacher", teacher, run.teacher), _torch_model("student", student, run.student)]
    for suffix, (runtime, precision) in _FILES.items():
        for role, own in zip(ROLES, found[:2], strict=True):
            if (name := f"{role}{suffix}") in files:
                path = run.export / name
                digest, size = _checked(path, files[name]["sha256"])
                mean, std = (own.mean, own.std) if name.endswith(".engine") else _normalisation(path)
                found.append(Model(name, role, runtime, precision, path, digest, size, mean, std))
    return found


class _File(BaseModel):
    sha256: str
    bytes: int


class _Calibration(BaseModel):
    method: str
    images: int
    split: str
    indices_sha256: str


class _Exported(BaseModel):
    """What a benchmark takes from export.json."""

    files: dict[str, _File]
    provenance: dict[str, str] = {}
    calibration: _Calibration | None = None
    failed: str | None = None


def read_export(run: Run) -> dict[str, Any]:
    """export.json. Raises InputError where there is none, or no ONNX file passed its gates."""
    record = _read_record(run, "student")
    if STUDENT_FILE not in record["files"]:
        raise InputError(f"the export of {run.path} holds no {STUDENT_FILE}", _make_it(run))
    return record


def _read_record(run: Run, role: Role) -> dict[str, Any]:
    path = run.export / record_file(role)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        made_of = _Exported.model_validate(record).provenance.get("weights_sha256")
    except FileNotFoundError:
        raise InputError(f"{run.path} has no export", _make_it(run)) from None
    except (OSError, ValueError) as error:  # pydantic's are ValueErrors
        raise InputError(f"{path} is damaged ({str(error).splitlines()[0]})", _make_it(run)) from None
    manifest = run.result
    current = manifest.student_sha256 if role == "student" else manifest.teacher.sha256
    if made_of not in (None, current):
        raise InputError(f"the export of {run.path} is of other weights of the {role} than it has now", _make_it(run))
    return record


def _make_it(run: Run) -> str:
    return f"Make it with `compress export {run.path}`."


def reason_not_timed(model: Model, runtimes: Collection[str]) -> str | None:
    """Why there will be no latency, or None. A latency that was not run is never written."""
    if model.runtime not in runtimes:
        return f"runtime {model.runtime} was not asked for"
    if model.proxy:
        return "made for TensorRT, whose speed ONNX Runtime does not show"
    if model.engine and not torch.cuda.is_available():
        return "no GPU here"
    return None


def evaluate(model: Model, images: np.ndarray, threads: int) -> np.ndarray:
    """float32 logits [N, C] of uint8 images [N, H, W, 3], normalised with the model's own mean and std."""
    if model.module is not None:
        return TorchRuntime(model.module, model.mean, model.std)(images)
    if model.engine:
        from export.tensorrt.runtime import EngineRunner, EngineRuntime

        return EngineRuntime(EngineRunner(model.path), model.mean, model.std)(images)
    return OrtRuntime(model.path, model.mean, model.std, threads=threads, literal=model.proxy)(images)


def open_model(model: Model, threads: int) -> Opened:
    if model.module is not None:
        return _Torch(model)
    return _Engine(model) if model.engine else _Ort(model, threads)


def try_evaluate(model: Model, images: np.ndarray, threads: int) -> np.ndarray | str:
    """The logits, or why there are none: an engine needs a GPU that it was built for."""
    if model.engine and not torch.cuda.is_available():
        return "no GPU here"
    try:
        return evaluate(model, images, threads)
    except CompressError as error:
        if model.engine:
            return str(error)
        raise


class _Torch:
    """A module in torch eager, float32, on the CPU."""

    def __init__(self, model: Model) -> None:
        assert model.module is not None
        self.model, self.module = model, model.module.eval()
        self.clock: Clock = host_clock

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.model.mean, self.model.std))

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.module(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.numpy()


class _Ort:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model = model
        self.clock: Clock = host_clock
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        # Without it the pool's threads spin for 30 ms after the last run, on cores that the next candidate needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = ort.InferenceSession(str(model.path), options, ["CPUExecutionProvider"])

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return normalise(pixels, self.model.mean, self.model.std)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: prepared})[0])

    def fetch(self, logits: np.ndarray) -> np.ndarray:
        return logits


class _Engine:
    """A TensorRT engine behind a CUDA graph; the model alone is timed by CUDA events. Not run on a GPU yet."""

    def __init__(self, model: Model) -> None:
        from export.tensorrt.runtime import EngineRunner

        self.model, self.runner = model, EngineRunner(model.path)
        self.clock: Clock = cuda_clock(self.runner.stream)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.model.mean, self.model.std)).to(self.runner.device)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        return self.runner(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.cpu().numpy()


def _checked(path: Path, digest: str) -> tuple[str, int]:
    """The hash and the size of a file that is what export.json says."""
    if not path.is_file() or sha256_file(path) != digest:
        raise InputError(
            f"{path} is missing or was altered: its hash is not export.json's", "Run `compress export` again."
        )
    return digest, path.stat().st_size


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    metadata = get_metadata(path)
    try:
        mean, std = ([float(value) for value in metadata[key].split(",")] for key in ("mean", "std"))
    except (KeyError, ValueError):
        raise InputError(f"{path} does not say its mean and std", "Run `compress export` again.") from None
    return mean, std


def _torch_model(role: Role, module: nn.Module, folder: Path) -> Model:
    cfg = models.read_config(folder)["pretrained_cfg"]
    weights = folder / models.WEIGHTS
    return Model(
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
