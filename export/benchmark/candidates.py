"""What a benchmark compares: teacher and student in torch, and every file of the run's export folder.

In: a finished run. Out: Candidates, whose files have the hashes that were recorded, each with its answers.
"""

import copy
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from compress import models
from compress.data import Dataset
from compress.runs.data import data_of_student, data_of_teacher
from compress.runs.folder import Run
from compress.runs.student import load_student
from compress.system.errors import CompressError, InputError
from compress.system.files import sha256_file
from export import onnx, openvino
from export.benchmark.results import Reference
from export.folder import ExportFolder, check_intact, ir_weights, read_export
from export.onnx import get_metadata
from export.openvino import Execution, OpenVinoRuntime, installed, own_execution, unusable
from export.records import PRECISIONS, FileRecord, Precision, RunPrecision
from export.runtimes import OrtRuntime, TorchRuntime
from export.sources import load_teacher

RuntimeName = Literal["torch", "ort", "openvino", "trt"]
Role = Literal["teacher", "student"]
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "ort", "openvino", "trt")
TEACHER: Reference = "teacher.torch"
STUDENT: Reference = "student.torch"
STUDENT_FILE = "student.onnx"
ON_GPU = ":cuda"
"""The end of the name of a candidate in torch that a GPU computes."""

_KINDS: tuple[tuple[RuntimeName, Precision, Callable[[ExportFolder, Precision], Path]], ...] = (
    *(("ort", precision, ExportFolder.onnx) for precision in PRECISIONS),
    ("trt", "int8", ExportFolder.trt_onnx),
    *(("trt", precision, ExportFolder.engine) for precision in PRECISIONS),
)
"""Every file that an export can leave of a model, but for the one that takes pixels, and the IRs."""
_PRECISION_OF: dict[Execution, RunPrecision] = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}


@dataclass(frozen=True)
class Candidate:
    """A model in a runtime that may be benchmarked. `path`: an ONNX file, IR, engine, or a model folder of torch's.

    `execution`: in what OpenVINO computes what the file has in float. `on_gpu`: a module of torch that is there.
    `weights_sha256`: of the .bin of an IR.
    """

    name: str
    role: Role
    runtime: RuntimeName
    precision: RunPrecision
    path: Path
    sha256: str
    size_bytes: int
    mean: Sequence[float]
    std: Sequence[float]
    module: nn.Module | None = None
    execution: Execution = "f32"
    on_gpu: bool = False
    weights_sha256: str = ""

    def options(self, threads: int) -> dict[str, str]:
        """Of its session: those with which it is timed, all that are set."""
        if self.runtime == "openvino":
            return openvino.session_options(threads, self.execution)
        if self.runtime == "ort":
            # Spinning threads would take the cores that the next candidate needs.
            return onnx.session_options(threads, stop_spinning=True)
        return {}

    @property
    def proxy(self) -> bool:
        """TensorRT's Q/DQ graph: ONNX Runtime can say how accurate it is, but not how fast TensorRT runs it."""
        return self.runtime == "trt" and not self.engine

    @property
    def engine(self) -> bool:
        """Whether it is a TensorRT engine."""
        return self.name.endswith(".engine")

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """What computes it."""
        return "cuda" if self.engine or self.on_gpu else "cpu"


def find_candidates(
    run: Run,
    runtimes: Collection[str] = ("torch", "ort", "trt"),
    *,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
) -> list[Candidate]:
    """Teacher, student, and the files that their exports recorded, in the order of the waterfall.

    Args:
        run: a finished run that was exported. Where its teacher has no last layer, it is no candidate.
        runtimes: where openvino is among them and installed, the ONNX files are candidates in it, too. Where torch and
            trt are, and there are engines and a GPU, teacher and student are candidates in torch on it, too.
        student: the module to fill with the student's weights, where `distill` was given one.
        teacher: the same for the teacher.

    Raises:
        InputError: the run has no export or one of other weights, or a file is missing or not the one that was
            recorded.
    """
    files = {"student": read_export(run).files, "teacher": {}}
    own_student = load_student(run, model=student)
    in_torch = [_torch_candidate("student", own_student, run.student, lambda: data_of_student(run))]
    if run.result.teacher_classifies:
        if ExportFolder(run.export, "teacher").record_file.exists():
            files["teacher"] = read_export(run, "teacher").files
        own_teacher = load_teacher(run, teacher)
        in_torch.insert(0, _torch_candidate("teacher", own_teacher, run.teacher, lambda: data_of_teacher(run)))
    exported: list[Candidate] = []
    for runtime, precision, path_in in _KINDS:
        for own in in_torch:
            path = path_in(ExportFolder(run.export, own.role), precision)
            if path.name in files[own.role]:
                exported.append(_exported(path, files[own.role][path.name].sha256, own, runtime, precision))
    asked = "openvino" in runtimes
    others = [
        candidate
        for own in in_torch
        for candidate in _in_openvino(ExportFolder(run.export, own.role), files[own.role], own, exported, asked=asked)
    ]
    if {"torch", "trt"} <= set(runtimes) and any(candidate.engine for candidate in exported):
        in_torch += _in_torch_on_gpu(in_torch)
    return in_torch + exported + others


def _in_torch_on_gpu(in_torch: Sequence[Candidate]) -> list[Candidate]:
    """What engines are compared with on their own GPU. Empty where there is none. Not run on a GPU yet."""
    if not torch.cuda.is_available():
        return []
    return [
        dataclasses.replace(
            each,
            name=f"{each.name}{ON_GPU}",
            module=copy.deepcopy(each.module).to(device="cuda", memory_format=torch.channels_last),  # type: ignore[union-attr]
            on_gpu=True,
        )
        for each in in_torch
    ]


def reference_of(run: Run) -> Reference:
    """The candidate that others are compared with: the teacher, or the student where the teacher answers nothing."""
    return TEACHER if run.result.teacher_classifies else STUDENT


def _exported(path: Path, recorded: str, own: Candidate, runtime: RuntimeName, precision: Precision) -> Candidate:
    """A file that is what export.json says. `own`: the model that it was made of."""
    check_intact(path, recorded)
    mean, std = _normalisation(path) if path.suffix == ".onnx" else (own.mean, own.std)
    return Candidate(path.name, own.role, runtime, precision, path, recorded, path.stat().st_size, mean, std)


def _in_openvino(
    folder: ExportFolder, files: Mapping[str, FileRecord], own: Candidate, onnx: Sequence[Candidate], *, asked: bool
) -> Iterator[Candidate]:
    """The IRs of a model, and, where OpenVINO is asked for and here, its ONNX files in it.

    Each is computed in f32, and, where OpenVINO itself would take less, in that too. A graph of which there is an IR is
    not tried twice in that.
    """
    lower = own_execution() if asked and installed() else "f32"
    held = set()
    for precision in PRECISIONS:
        path = folder.openvino(precision)
        if (name := folder.key(path)) not in files:
            continue
        weights, of_weights = path.with_suffix(".bin"), files.get(ir_weights(name))
        of_weights = of_weights.sha256 if of_weights else ""
        check_intact(path, files[name].sha256)
        check_intact(weights, of_weights)
        held.add(files[name].made_of)
        size = path.stat().st_size + weights.stat().st_size
        ir = Candidate(name, own.role, "openvino", precision, path, files[name].sha256, size, own.mean, own.std)
        ir = dataclasses.replace(ir, weights_sha256=of_weights)
        yield from _executions(ir, lower if precision != "fp16" else "f32")
    if not asked or not installed():
        return
    for each in onnx:
        if each.role == own.role and each.path.suffix == ".onnx" and each.precision != "fp16":
            if own.role == "teacher" and (each.proxy or held):
                continue  # of the teacher one file of each precision is enough to compare with
            named = dataclasses.replace(each, name=f"{each.name}:openvino", runtime="openvino")
            twice = each.path.name not in held and (own.role == "student" or each.precision == "fp32")
            yield from _executions(named, lower if twice else "f32")


def _executions(candidate: Candidate, lower: Execution) -> Iterator[Candidate]:
    yield candidate
    if lower != "f32":
        precision: RunPrecision = "int8" if candidate.precision == "int8" else _PRECISION_OF[lower]
        name = f"{candidate.name}:{lower}"
        yield dataclasses.replace(candidate, name=name, precision=precision, execution=lower)


def reason_not_timed(candidate: Candidate, runtimes: Collection[str]) -> str | None:
    """Why there will be no latency, or None where there will be. A latency that was not run is never written."""
    if candidate.runtime not in runtimes:
        return f"runtime {candidate.runtime} was not asked for"
    if candidate.proxy:
        return "made for TensorRT, whose speed ONNX Runtime does not show"
    return _not_here(candidate)


def _not_here(candidate: Candidate) -> str | None:
    if candidate.device == "cuda" and not torch.cuda.is_available():
        return "no GPU here"
    return unusable() or None if candidate.runtime == "openvino" else None


def evaluate(candidate: Candidate, images: np.ndarray, threads: int) -> np.ndarray:
    """float32 logits [N, C] of uint8 images [N, H, W, 3], normalised with the model's own mean and std."""
    if candidate.module is not None:
        return TorchRuntime(candidate.module, candidate.mean, candidate.std)(images)
    if candidate.engine:
        from export.tensorrt import EngineRunner, EngineRuntime

        return EngineRuntime(EngineRunner(candidate.path), candidate.mean, candidate.std)(images)
    if candidate.runtime == "openvino":
        execution = candidate.execution
        return OpenVinoRuntime(candidate.path, candidate.mean, candidate.std, threads=threads, execution=execution)(
            images
        )
    return OrtRuntime(candidate.path, candidate.mean, candidate.std, threads=threads, literal=candidate.proxy)(images)


def try_evaluate(candidate: Candidate, images: np.ndarray, threads: int) -> np.ndarray | str:
    """The logits of `evaluate`, or why there are none: a runtime may refuse a file, and what it gives be not finite.

    Raises:
        CompressError: the models in torch on the CPU, or the FP32 file, with which all others are compared.
    """
    if (reason := _not_here(candidate)) is not None:
        return reason
    needed = candidate.name == STUDENT_FILE or (candidate.module is not None and candidate.device == "cpu")
    try:
        logits = evaluate(candidate, images, threads)
        if not np.isfinite(logits).all():
            raise InputError(f"{candidate.name} gives logits that are not finite", "Run `compress export` again.")
    except CompressError as error:
        if needed:
            raise
        return error.message
    return logits


def _normalisation(path: Path) -> tuple[list[float], list[float]]:
    metadata = get_metadata(path)
    try:
        mean, std = ([float(value) for value in metadata[key].split(",")] for key in ("mean", "std"))
    except (KeyError, ValueError):
        raise InputError(f"{path} does not say its mean and std", "Run `compress export` again.") from None
    return mean, std


def _torch_candidate(role: Role, module: nn.Module, folder: Path, data: Callable[[], Dataset]) -> Candidate:
    """`data` as the model sees it: of a module that was handed over it alone says the mean and std."""
    cfg = models.read_config(folder).get("pretrained_cfg")
    mean, std = (cfg["mean"], cfg["std"]) if cfg else (data().mean, data().std)
    weights = folder / models.WEIGHTS
    size, name = weights.stat().st_size, f"{role}.torch"
    return Candidate(name, role, "torch", "fp32", folder, sha256_file(weights), size, mean, std, module)
