"""What a finished student of a study is like beyond its top-1: agreement with its teacher, calibration, temperatures.

In: a finished run. Out: plain data for measures.json, after which the weights are needed no more.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress import models
from compress.data import Dataset, load_data
from compress.data.preprocessing import Preprocessing
from compress.data.splits import Splits, on_device
from compress.losses.distillation import DistillationSettings, dynamic_temperature
from compress.losses.objective import distillation_settings
from compress.models.inference import for_inference
from compress.recipe import Data
from compress.runs.folder import Run
from compress.runs.student import load_student
from compress.system.interrupts import Flag
from compress.system.seeds import stream
from compress.training.batches import Batches
from compress.training.evaluate import logits_of
from export.benchmark import scoring

BATCHES = 16  # of training images, whose temperatures are looked at


def measure(run: Run, device: torch.device) -> dict[str, Any]:
    """On the evaluation split: `agreement` with the teacher, `student` and `teacher` (top-1, NLL, ECE).

    temperatures: for DTD those of training batches, with what they follow from (`temperatures`), else None.
    """
    recipe = run.recipe
    assert recipe.teacher.checkpoint
    data, teachers = Seen.by_student(run), Path(recipe.teacher.checkpoint)
    dataset, splits = data_of(data, device)
    teacher = teacher_of(data, teachers, device)
    student = load_student(run).to(device)
    logits = {
        "teacher": _teacher_logits(data, teachers, device),
        "student": logits_of(student, splits.evaluation).cpu().numpy(),
    }
    labels = dataset.eval_labels
    comparison = scoring.compare("teacher", "student", logits, labels, "measured")
    return {
        "agreement": comparison.agreement.model_dump(),
        **{role: scoring.accuracy(each, labels, "measured").model_dump() for role, each in logits.items()},
        "temperatures": temperatures(run, student, teacher, splits),
    }


def temperatures(run: Run, student: nn.Module, teacher: nn.Module, splits: Splits) -> dict[str, list[float]] | None:
    """Of each sample in the first training batches of the last epoch, by the finished student in eval mode.

    With `teacher.cache` these are of the view that repeats in that epoch.

    Beside T_x: the cosine of the logits of student and teacher, the student's largest probability, and whether the
    student is right. None where the method has one temperature for all.
    """
    recipe = run.recipe
    distillation = distillation_settings(recipe.supervision)
    if distillation is None or distillation.dynamic == "constant":
        return None
    batches = Batches(
        splits.train,
        recipe.data.augment,
        batch_size=recipe.train.batch_size,
        seed=stream(recipe.train.seed, "student"),
        teacher=for_inference(teacher, splits.train.normalized(slice(0, 8)), precision=torch.float32),
    )
    epoch, cache = recipe.training.epochs - 1, recipe.teacher.cache
    columns: dict[str, list[float]] = {"temperature": [], "cosine": [], "confidence": [], "right": []}
    for step in range(min(BATCHES, batches.steps_per_epoch)):
        batch = batches.get(epoch if cache is None else epoch % cache.views, step, Flag())
        assert batch.teacher_logits is not None
        with torch.inference_mode():
            logits = student(batch.images)
        each = temperature(distillation, logits, batch.teacher_logits)
        found = {
            "temperature": each,
            "cosine": F.cosine_similarity(logits, batch.teacher_logits),
            "confidence": F.softmax(logits, dim=1).amax(dim=1),
            "right": (logits.argmax(1) == batch.labels).float(),
        }
        for name, values in found.items():
            columns[name] += [round(value, 4) for value in values.tolist()]
    return columns


def temperature(settings: DistillationSettings, student: Tensor, teacher: Tensor) -> Tensor:
    """[B], of each sample, from logits [B, C]."""
    return dynamic_temperature(
        student,
        teacher,
        kind=settings.dynamic,
        base=settings.base,
        beta=settings.beta,
        gamma=settings.gamma,
        normalize=settings.normalize,
        floor=settings.floor,
    )


@dataclass(frozen=True)
class Seen:
    """The data of a run as its student sees it. settings: the recipe's, as JSON."""

    settings: str
    preprocessing: Preprocessing

    @classmethod
    def by_student(cls, run: Run) -> "Seen":
        cfg = models.read_config(run.student).get("pretrained_cfg") or {}
        return cls(run.recipe.data.model_dump_json(), Preprocessing.of(cfg, str(run.student)))


@functools.lru_cache(maxsize=1)
def data_of(seen: Seen, device: torch.device) -> tuple[Dataset, Splits]:
    dataset = load_data(Data.model_validate_json(seen.settings), seen.preprocessing)
    return dataset, on_device(dataset, device)


@functools.lru_cache(maxsize=1)
def teacher_of(data: Seen, folder: Path, device: torch.device) -> nn.Module:
    """It takes the student's images, also where it sees larger ones itself."""
    dataset, _ = data_of(data, device)
    return models.as_teacher(models.load_model(folder), dataset, str(folder)).to(device).eval()


@functools.lru_cache(maxsize=1)
def _teacher_logits(data: Seen, folder: Path, device: torch.device) -> Any:
    _, splits = data_of(data, device)
    return logits_of(teacher_of(data, folder, device), splits.evaluation).cpu().numpy()
