"""A training from its start to its end in a folder of the test's own, as compress.runs starts one."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress import recipe
from compress.data import Splits
from compress.data.augment import Images
from compress.distributed.world import current
from compress.losses import Objective
from compress.training import finish, train
from compress.training.divergence import DivergenceWatch
from compress.training.files import TrainingFiles
from compress.training.loop import Job
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from compress.training.trackers import open_trackers
from tests.helpers.networks import network
from tests.helpers.terms import supervision

MEASURED = {"seconds", "images_per_s", "peak_memory_mb"}
"""The values of metrics.jsonl that differ from one time to the next."""


def splits(count: int = 50, *, size: int = 6, device: str = "cpu") -> Splits:
    """Noise of a shade for each of 4 classes; the first 20 images are those of evaluation."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 100, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    pixels += (labels * 50).to(torch.uint8).view(-1, 1, 1, 1)
    mean, std = torch.full((3,), 0.4, device=device), torch.full((3,), 0.2, device=device)
    pixels, labels = pixels.to(device), labels.to(device)
    return Splits(Images(pixels, labels, mean, std), Images(pixels[:20].clone(), labels[:20], mean, std))


def without_labels(data: Splits, count: int) -> Splits:
    """The same with so many more images to train on, which have no label."""
    train = data.train
    pixels = torch.randint(0, 256, (count, *train.images.shape[1:]), generator=torch.Generator().manual_seed(9))
    labels = torch.full((count,), -1)
    more = replace(
        train,
        images=torch.cat([train.images, pixels.to(torch.uint8)]),
        labels=torch.cat([train.labels, labels]),
        unlabeled=count,
    )
    return replace(data, train=more)


def trained(
    model: nn.Module,
    *,
    splits: Splits,
    teacher: nn.Module | None,
    objective: Objective,
    settings: recipe.TrainSettings,
    augment: recipe.Augment,
    epochs: int,
    folder: Path,
    provenance: dict[str, Any],
    unlabeled_share: float = 0.0,
    memo: Memo | None = None,
) -> nn.Module:
    """What train() returns for a student."""
    job = Job(
        phase="student",
        epochs=epochs,
        objective=objective,
        settings=settings,
        augment=augment,
        files=TrainingFiles.below(folder),
        provenance=provenance,
        unlabeled_share=unlabeled_share,
        trackers=open_trackers(settings.tracker, folder, {}),
    )
    return finish(train(model, job, splits, teacher=teacher, memo=memo))


def run(
    folder: Path,
    terms: Sequence[dict[str, Any]] = (),
    *,
    method: str = "ka+dtd",
    epochs: int = 3,
    teacher: nn.Module | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
    memo: Memo | None = None,
    augment: recipe.Augment | None = None,
    unlabeled_share: float = 0.0,
    **options: Any,
) -> nn.Module:
    """The small network, trained as the recipe's defaults and these options say."""
    settings = recipe.TrainSettings.model_validate({"epochs": max(epochs, 1), "batch_size": 16, "lr": 0.05, **options})
    return trained(
        model if model is not None else network(1, dropout=0.1),
        splits=data if data is not None else splits(),
        teacher=teacher if teacher is not None else network(2, channels=12),
        objective=Objective.of(supervision(list(terms), method), label_smoothing=settings.label_smoothing),
        settings=settings,
        augment=augment if augment is not None else recipe.Augment(crop=1, flip=True),
        epochs=epochs,
        folder=folder,
        provenance={"data": "x"},
        unlabeled_share=unlabeled_share,
        memo=memo,
    )


def by_labels(folder: Path, settings: recipe.TrainSettings) -> Job:
    """Two epochs by labels alone, on images as they are."""
    return Job(
        phase="student",
        epochs=2,
        objective=Objective.of(supervision([], "ce"), label_smoothing=0.0),
        settings=settings,
        augment=recipe.Augment(crop=0, flip=False),
        files=TrainingFiles.below(folder),
        provenance={},
    )


def newest(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of the newest checkpoint."""
    return load_file(sorted((folder / "checkpoints").glob("*.safetensors"))[-1])


def repeatable_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what is measured anew each time."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int, *, rank: int = 0) -> None:
    """A signal that arrives during the given step, in the process of that rank."""
    original, calls = DivergenceWatch.check, []

    def check(self: DivergenceWatch, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == steps and current().rank == rank:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args)

    monkeypatch.setattr(DivergenceWatch, "check", check)
