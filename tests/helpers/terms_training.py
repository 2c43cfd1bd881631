"""Small models and data to train them on with terms."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from compress import recipe
from compress.data.augment import Images, Splits
from compress.losses.objective import Objective
from compress.losses.terms import Terms
from compress.training.memo import Memo
from tests.helpers.training import trained

FITNET = {"name": "fitnet", "student": "2", "teacher": "2"}
ALL = [
    FITNET,
    {"name": "attention_transfer", "student": "2", "teacher": "3"},
    {"name": "neuron_selectivity", "student": "3", "teacher": "2"},
    {"name": "similarity_preserving", "student": "2", "teacher": "5"},
    {"name": "relational", "student": "3", "teacher": "3", "angle_weight": 20.0},
    {"name": "dkd", "beta": 2.0},
    {"name": "dist", "weight": 0.1},
    {"name": "fitnet", "student": "3", "teacher": "2", "weight": 0.5},
]


def network(seed: int, channels: int = 8, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4),
    )  # fmt: skip


def splits(count: int = 50) -> Splits:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    pixels = torch.randint(0, 100, (count, 6, 6, 3), dtype=torch.uint8, generator=generator)
    pixels += (labels * 50).to(torch.uint8).view(-1, 1, 1, 1)
    mean, std = torch.full((3,), 0.4), torch.full((3,), 0.2)
    return Splits(Images(pixels, labels, mean, std), Images(pixels[:20].clone(), labels[:20], mean, std))


def supervision(terms: list[dict[str, Any]], method: str = "ka+dtd", **options: Any) -> recipe.Supervision:
    return recipe.Supervision.model_validate({"method": method, "terms": terms, **options})


def make(terms: list[dict[str, Any]], student: nn.Module, teacher: nn.Module, seed: int = 0, **options: Any) -> Terms:
    return Terms(supervision(terms).terms, student, teacher, torch.zeros(2, 3, 6, 6), seed=seed, **options)


def run(
    folder: Path,
    terms: list[dict[str, Any]],
    *,
    method: str = "ka+dtd",
    epochs: int = 3,
    teacher: nn.Module | None = None,
    model: nn.Module | None = None,
    data: Splits | None = None,
    memo: Memo | None = None,
    **options: Any,
) -> nn.Module:
    settings = recipe.Train.model_validate({"epochs": epochs, "batch_size": 16, "lr": 0.05, **options})
    return trained(
        model if model is not None else network(1, dropout=0.1),
        splits=data if data is not None else splits(),
        teacher=teacher if teacher is not None else network(2, channels=12),
        objective=Objective.of(supervision(terms, method), label_smoothing=0.0),
        settings=settings,
        augment=recipe.Augment(crop=1, flip=True),
        epochs=epochs,
        folder=folder,
        provenance={"data": "x"},
        memo=memo,
    )


def equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def newest(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((folder / "checkpoints").glob("*.safetensors"))[-1])
