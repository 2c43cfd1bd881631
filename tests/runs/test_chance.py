"""A teacher must know more than chance. The limits are quantiles of the binomial distribution, from its table."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from compress.recipe import Recipe, validate_recipe
from compress.runs.checks import check_above_chance
from compress.system.errors import InputError


def recipe(method: str = "kd", terms: str = "") -> Recipe:
    supervision: dict[str, Any] = {"method": method, "terms": [{"name": terms}] if terms else []}
    models = {"teacher": {"model": "resnet18"}, "student": {"model": "resnet10t"}}
    return validate_recipe({"data": {"name": "digits"}, **models, "supervision": supervision})


def judged(labels: list[int], right: int, of: Recipe, source: str = "train") -> None:
    dataset: Any = SimpleNamespace(eval_labels=np.array(labels), num_classes=len(set(labels)))
    check_above_chance(right / len(labels), dataset, of, source)


@pytest.mark.parametrize(
    ("labels", "chance"), [(list(range(10)) * 20, 0.1), ([0] * 150 + [1, 2] * 25, 0.75), ([0, 1] * 50, 0.5)]
)
def test_chance_must_not_explain_the_right_answers(labels: list[int], chance: float) -> None:
    images = len(labels)
    fewest = next(right for right in range(images) if binom.sf(right - 1, images, chance) < 0.01)
    judged(labels, fewest, recipe())
    judged(labels, images, recipe())
    with pytest.raises(InputError, match="is not above chance"):
        judged(labels, fewest - 1, recipe())


@pytest.mark.parametrize(("images", "classes"), [(18, 3), (99, 2), (60, 10)])
def test_of_few_images_a_checkpoint_must_be_right_once(images: int, classes: int) -> None:
    labels = [number % classes for number in range(images)]
    judged(labels, 1, recipe(), "checkpoint")
    judged(labels[:4], 0, recipe(), "checkpoint")
    for source in ("train", "module"):
        judged(labels, 0, recipe(), source)
    with pytest.raises(InputError, match="is not above chance"):
        judged(labels, 0, recipe(), "checkpoint")


def test_few_images_and_methods_without_a_teacher_are_not_judged() -> None:
    judged([0, 1] * 49 + [1], 50, recipe())
    with pytest.raises(InputError):
        judged([0, 1] * 50, 0, recipe())
    judged([0, 1] * 50, 0, recipe("ce"))
    with pytest.raises(InputError):
        judged([0, 1] * 50, 0, recipe("ce", "dkd"))
