"""A training from its start to its end in a folder of the test's own, as compress.runs starts one."""

from pathlib import Path
from typing import Any

from torch import nn

from compress import recipe
from compress.data import Splits
from compress.losses import Objective
from compress.training import finish, train
from compress.training.loop import Job, TrainingFiles
from compress.training.memo import Memo


def training_files(folder: Path) -> TrainingFiles:
    return TrainingFiles(folder / "metrics.jsonl", folder / "checkpoints", folder / "tensorboard")


def trained(
    model: nn.Module,
    *,
    splits: Splits,
    teacher: nn.Module | None,
    objective: Objective,
    settings: recipe.Train,
    augment: recipe.Augment,
    epochs: int,
    folder: Path,
    provenance: dict[str, Any],
    memo: Memo | None = None,
) -> nn.Module:
    """What train() returns for a student."""
    job = Job(
        phase="student",
        epochs=epochs,
        objective=objective,
        settings=settings,
        augment=augment,
        files=training_files(folder),
        provenance=provenance,
    )
    return finish(train(model, job, splits, teacher=teacher, memo=memo))
