"""A recipe with nothing left open, so that the run's recipe.yaml says all."""

from typing import Literal

import torch

from compress.data import resolve_augment
from compress.data.sources import LAYOUTS
from compress.recipe import Recipe
from compress.recipe.methods import default_alpha


def resolve(given: Recipe, device: torch.device, like: Recipe | None = None) -> Recipe:
    """Fills in what the recipe leaves open, as it suits the device; where `like` is given, as it is there."""
    size = given.data.image_size or LAYOUTS[given.data.name].image_size
    epochs = given.teacher.epochs
    if epochs is None:
        epochs = like.teacher.epochs if like is not None else given.train.epochs
    members = [member.model_copy(update={"epochs": member.epochs or epochs}) for member in given.teacher.ensemble]
    method = given.supervision.method
    alpha = given.supervision.alpha
    if alpha is None and method != "ce":
        alpha = default_alpha(method)
    precision = given.train.precision
    if precision == "auto":
        precision = like.train.precision if like is not None else fast_precision(device)
    return given.model_copy(
        update={
            "train": given.train.model_copy(update={"precision": precision}),
            "data": given.data.model_copy(update={"image_size": size, "augment": resolve_augment(given.data)}),
            "teacher": given.teacher.model_copy(update={"epochs": epochs, "ensemble": members}),
            "supervision": given.supervision.model_copy(update={"alpha": alpha}),
        }
    )


def fast_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """On CPUs without AMX bf16 was slower than fp32 with every model tried (recipes/results/training.md)."""
    return "bf16" if device.type == "cuda" or torch.cpu._is_amx_tile_supported() else "fp32"
