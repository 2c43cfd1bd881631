"""Checks a model before hours are spent on it.

In: a model and the data set. Out: nothing, or an error. The model must accept the images, give logits of the right
shape and have the features that the terms name. A teacher must know more than chance.
"""

import logging
import re
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc  # scipy.stats takes half as long to import as torch
from torch import Tensor, nn

from compress.data import Dataset
from compress.distributed.world import current
from compress.losses.terms import tap
from compress.recipe import Recipe
from compress.recipe.train import TrainSettings
from compress.runs.records import TeacherRecord
from compress.system.errors import InputError, first_line
from compress.system.modules import evaluating
from compress.training.batches import check_parts
from compress.training.freezing import Freezing
from compress.training.optimizer import check_layers_have_an_order, check_optimizer

logger = logging.getLogger(__name__)

_DOUBT = 0.01
_ENOUGH = 100
_FOREIGN = ("checkpoint", "pretrained", "module")
"""Teachers whose classes somebody else put in order."""


def check_above_chance(record: TeacherRecord, dataset: Dataset, recipe: Recipe) -> None:
    """Refuses a teacher whose accuracy is that of chance: it guesses, or always gives the most frequent class.

    Chance must not explain the number of right answers (one-sided binomial test, 1 %; ours), or not the balanced top-1.
    Whatever the odds with which someone guesses classes, the balanced top-1 is 1/C on average, while top-1 reaches the
    share of the most frequent class. Where that is 97 %, a good teacher is hardly above it in top-1.

    Fewer than 100 images to evaluate on say too little, and any teacher is allowed, but for one whose weights come from
    a checkpoint and that is never right, where a blind draw of classes would be, by the same test: it knows the
    classes, but in another order.

    Args:
        record: of the teacher, with its accuracy.
        dataset: on whose evaluation split it was measured.
        recipe: method ce without terms does not use the teacher, so any is allowed.

    Raises:
        InputError: the teacher is not above chance.
    """
    if recipe.supervision.method == "ce" and not recipe.supervision.terms:
        return
    assert record.top1 is not None
    counts = np.bincount(dataset.eval_labels)
    images, counts = len(dataset.eval_labels), counts[counts > 0]
    balanced = record.balanced_top1 or 0.0
    chance, blind = float(counts.max() / images), 1 / len(counts)
    right, drawn = round(record.top1 * images), 1 / dataset.num_classes
    above = _at_least(right, images, chance) < _DOUBT
    if not above and len(counts) > 1:
        draws = _draws(counts)
        above = _at_least(int(balanced * draws + 1e-6), int(draws), blind) < _DOUBT
    never = right == 0 and bdtr(0, images, drawn) < _DOUBT
    if (record.source == "checkpoint" and never) or (images >= _ENOUGH and not above):
        raise InputError(
            f"the teacher's top-1 of {record.top1:.2%} on {images:,} images is not above chance ({chance:.2%}), nor is "
            f"its balanced top-1 of {balanced:.2%} ({blind:.2%})",
            "A student cannot learn from it: train it longer, choose other weights, or name its classes in order.",
        )


def _at_least(right: int, images: int, chance: float) -> float:
    """The probability that so many of the images, or more, are right where each is with probability `chance`."""
    return float(bdtrc(right - 1, images, chance))


def _draws(counts: NDArray[np.int64]) -> float:
    """So many draws of one class in C vary as much as the balanced top-1 of someone who guesses, at most.

    Guesses q leave the variance sum(q (1 - q) / counts) / C^2. Its maximum has q = (1 - level counts) / 2 for the
    classes with the fewest images, as many as have q above 0, and 0 for the rest.

    Args:
        counts: int64 [C], images of each class, none of them 0. C is at least 2.
    """
    counts, classes = np.sort(counts), len(counts)
    over = np.arange(1, classes + 1) - 2
    used = int(np.count_nonzero(over * counts < counts.cumsum()))  # true for the first classes, then false
    few = counts[:used]
    most = (np.sum(1 / few) - (used - 2) ** 2 / few.sum()) / 4
    return float((classes - 1) / most)


def check_answers(logits: Tensor, dataset: Dataset, source: str) -> None:
    """Looks at what a teacher says of the evaluation split, before a student learns from it.

    Warns where its logits are probabilities, as behind a softmax or a sigmoid. Warns where a teacher that was not
    trained here is better by far if its classes are in natural order (1, 2, 10), while those of the data are sorted as
    texts (1, 10, 2).

    Args:
        logits: [N, C], in the order of the split.
        source: where the teacher comes from, as in its record.

    Raises:
        InputError: a logit is not finite.
    """
    if broken := int((~logits.isfinite().all(dim=1)).sum()):
        raise InputError(
            f"the teacher's logits are not finite for {broken:,} of {len(logits):,} images",
            "Its weights, or the statistics of its BatchNorms, are damaged: take others.",
        )
    softmax = bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-3).all())
    # Where a sigmoid rounds to 0, others round to 1. Small outputs of a ReLU are 0 and never exactly 1.
    of_relu = bool((logits == 0).any()) and not bool((logits == 1).any())
    if softmax or (bool(((logits >= 0) & (logits <= 1)).all()) and not of_relu):
        each = "each row is between 0 and 1 and sums to 1" if softmax else "each value is between 0 and 1"
        logger.warning(
            f"the teacher's outputs are probabilities, not logits: {each}. At a temperature they say nearly nothing. "
            f"Take off its last {'softmax' if softmax else 'sigmoid'}"
        )
    natural = sorted(range(dataset.num_classes), key=lambda number: _natural(dataset.class_names[number]))
    if source in _FOREIGN and natural != list(range(dataset.num_classes)):
        labels = torch.from_numpy(dataset.eval_labels).to(logits.device)
        # In that order the teacher's class k is the data's class natural[k].
        as_natural = torch.tensor(natural, device=logits.device)[logits.argmax(dim=1)]
        here, there = ((found == labels).double().mean().item() for found in (logits.argmax(dim=1), as_natural))
        if there > here and _at_least(round(there * len(labels)), len(labels), here) < _DOUBT:
            what_to_do = (
                "return its logits in the order of the data's classes, which is that of texts (1, 10, 2)"
                if source == "module"
                else "name them in that order, as label_names in the config.json beside its weights"
            )
            logger.warning(
                f"the teacher's top-1 is {here:.2%}, and {there:.2%} if its classes are in natural order (1, 2, 10): "
                f"{what_to_do}"
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def check_logits(model: nn.Module, dataset: Dataset, role: str) -> None:
    """Runs the model on two blank images in eval mode.

    Args:
        role: "teacher", "student" or "assistant", for the error message.

    Raises:
        InputError: the model does not map the data's images [N, 3, H, W] to logits [N, C] of its classes; or a
            student's or an assistant's are not finite. Of a teacher `check_answers` says it, for all images.
    """
    with evaluating(model), torch.no_grad():
        try:
            output = model(torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device_of(model)))
        except Exception as error:
            raise InputError(
                f"the {role} does not take images of {dataset.image_size} pixels ({first_line(error)})",
                "Choose another data.image_size or model, or give a ViT its size, as in args: {img_size: 32}.",
            ) from error
    require_logits(output, 2, dataset, role)
    if role == "teacher":
        return
    broken = [name for name, value in model.named_parameters() if not bool(value.isfinite().all())]
    if broken or not bool(output.isfinite().all()):
        what = f"{broken[0]} is" if broken else "logits are"
        raise InputError(f"the {role}'s {what} not finite", "Hand over one with weights that are numbers.")


def require_logits(output: Any, images: int, dataset: Dataset, role: str, when: str = "") -> None:
    """Raises InputError unless the output is a tensor of logits [images, C].

    Args:
        when: in which mode the model put it out, for the error message.
    """
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise InputError(
            f"the {role} returns a {kind}{when}, not a tensor of logits [N, C]",
            "Wrap it in a module whose forward returns the logits alone.",
        )
    if list(output.shape) != [images, dataset.num_classes]:
        raise InputError(
            f"the {role} has outputs of shape {list(output.shape)[1:]}{when}, and {dataset.name} has "
            f"{dataset.num_classes} classes",
            "Its last layer must have one output a class.",
        )
    if not output.is_floating_point():
        raise InputError(f"the {role} has outputs of {output.dtype}{when}, which are no logits")


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters are; the CPU where it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def check_features(model: nn.Module, recipe: Recipe, dataset: Dataset, role: str) -> None:
    """Looks for the features that the recipe's terms name for this role.

    Args:
        role: "teacher" or "student".

    Raises:
        UsageError: the model does not have such a feature.
    """
    images = torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device_of(model))
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
