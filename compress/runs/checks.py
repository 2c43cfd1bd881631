"""Checks a model before hours are spent on it.

In: a model and the data set. Out: nothing, or an error. The model must accept the images, give logits of the right
shape and have the features that the terms name. A teacher must know more than chance.
"""

import numpy as np
import torch
from scipy.stats import binomtest
from torch import nn

from compress.data import Dataset
from compress.distributed.world import current
from compress.losses.terms import tap
from compress.recipe import Recipe
from compress.recipe.train import TrainSettings
from compress.system.errors import InputError, first_line
from compress.training.batches import check_parts
from compress.training.freezing import Freezing
from compress.training.optimizer import check_layers_have_an_order, check_optimizer

_DOUBT = 0.01
_ENOUGH = 100


def check_above_chance(top1: float, dataset: Dataset, recipe: Recipe) -> None:
    """Refuses a teacher whose accuracy is that of chance. Whoever guesses the most frequent class has that accuracy.

    Chance must not explain the number of right answers (one-sided binomial test, 1 %; ours). Fewer than 100 images to
    evaluate on say too little, and any teacher is allowed.

    Args:
        top1: of the teacher.
        dataset: on whose evaluation split it was measured.
        recipe: method ce without terms does not use the teacher, so any is allowed.

    Raises:
        InputError: the teacher is not above chance.
    """
    if recipe.supervision.method == "ce" and not recipe.supervision.terms:
        return
    if (images := len(dataset.eval_labels)) < _ENOUGH:
        return
    chance = float(np.bincount(dataset.eval_labels).max() / images)
    if binomtest(round(top1 * images), images, chance, alternative="greater").pvalue >= _DOUBT:
        raise InputError(
            f"the teacher's top-1 of {top1:.2%} on {images:,} images is not above chance ({chance:.2%})",
            "A student cannot learn from it: train it longer, or choose other weights.",
        )


def check_logits(model: nn.Module, dataset: Dataset, role: str) -> None:
    """Runs the model on two blank images.

    Args:
        role: "teacher", "student" or "assistant", for the error message.

    Raises:
        InputError: the model does not map the data's images [N, 3, H, W] to logits [N, C] of its classes.
    """
    was_training = model.training
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            shape = list(model.eval()(torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)).shape)
        except Exception as error:
            raise InputError(
                f"the {role} does not take images of {dataset.image_size} pixels ({first_line(error)})",
                "Choose another data.image_size or model, or give a ViT its size, as in args: {img_size: 32}.",
            ) from error
    model.train(was_training)
    if shape != [2, dataset.num_classes]:
        raise InputError(
            f"the {role} has outputs of shape {shape[1:]}, and {dataset.name} has {dataset.num_classes} classes",
            "Its last layer must have one output a class.",
        )


def check_features(model: nn.Module, recipe: Recipe, dataset: Dataset, role: str) -> None:
    """Looks for the features that the recipe's terms name for this role.

    Args:
        role: "teacher" or "student".

    Raises:
        UsageError: the model does not have such a feature.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)
    tap(model, recipe.supervision.terms, images, role=role)


def check_training(recipe: Recipe, dataset: Dataset) -> None:
    """Looks for the optimisers of the student and of the teachers that are trained here, and at parts of their batches.

    Args:
        recipe: resolved (`compress.runs.resolve`).

    Raises:
        UsageError: timm has no such optimiser, or a training cannot use it; or a batch has more parts than images.
    """
    settings = {"train": recipe.training}
    for number, member in enumerate(recipe.teacher.members):
        if member.trained_here:
            settings[f"teacher.ensemble.{number - 1}.train" if number else "teacher.train"] = member.training
    for key, each in settings.items():
        check_optimizer(each, key)
        share = recipe.data.unlabeled_share if dataset.unlabeled and key == "train" else 0.0
        images = min(each.batch_size, int(dataset.labeled / (1 - share)))
        check_parts(current().images_each(images), each.grad_accumulation, key)


def check_layers(model: nn.Module, settings: TrainSettings) -> None:
    """Looks for the layers that `freeze`, `freeze_epochs`, `head_lr` and `layer_decay` need.

    Raises:
        UsageError: the model has no such layer, or nothing would be left to train.
    """
    Freezing(model, settings, steps_per_epoch=1).lift()
    if settings.layer_decay is not None:
        check_layers_have_an_order(model)
