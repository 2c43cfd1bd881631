"""What a resolved recipe keeps of the one that was given, and what it fills in."""

import dataclasses
from typing import Any

import pytest
import torch

from compress.data import load_data
from compress.recipe import Augment, Data, Recipe, validate_recipe
from compress.runs.data import _describe
from compress.runs.resolve import resolve


def recipe(**supervision: Any) -> Recipe:
    raw = {"data": {"name": "digits"}, "teacher": {"model": "resnet18"}, "student": {"model": "resnet10t"}}
    return validate_recipe({**raw, "supervision": supervision, "train": {"precision": "fp32"}})


@pytest.mark.parametrize(
    ("supervision", "alpha"),
    [
        ({"method": "kd"}, 0.9),
        ({"method": "ka+dtd"}, 1.0),
        ({"method": "kd", "alpha": 0.3}, 0.3),
        ({"method": "ka+dtd", "alpha": 0.3}, 0.3),
        ({"method": "ce"}, None),
    ],
)
def test_alpha_is_the_given_one_else_that_of_the_method(supervision: dict[str, Any], alpha: float | None) -> None:
    assert resolve(recipe(**supervision), torch.device("cpu")).supervision.alpha == alpha


def test_the_line_on_the_data_names_what_changes_the_pictures() -> None:
    data = load_data(Data(name="digits"))
    described = _describe(data, Augment(flip=True, scale=0.5))
    assert described.startswith(f"data: digits, {len(data.train_labels):,} images to train on, ")
    assert described.endswith("pixels; augmentation: flip, scale")
    assert _describe(data, Augment(flip=False, scale=1.0)).endswith("augmentation: none")
    assert _describe(dataclasses.replace(data, streamed=True), Augment()).endswith("; decoded for each use")
