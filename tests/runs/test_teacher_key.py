"""What names a trained teacher: whatever decides its training, also where a config.json says it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._hub import save_for_hf

from compress.data import Dataset, load_data
from compress.recipe import Data, Recipe, validate_recipe
from compress.runs.keys import teacher_hash
from compress.runs.resolve import resolve


@pytest.fixture
def published(tmp_path: Path) -> Path:
    model = timm.create_model("resnet10t", num_classes=10, channels=[8, 8, 8, 8])
    save_for_hf(model, tmp_path / "saved", model_args={"channels": [8, 8, 8, 8]})
    return tmp_path / "saved"


@pytest.fixture
def recipe(published: Path) -> Recipe:
    teacher = {"model": "resnet10t", "source": "finetune", "weights": str(published)}
    raw = {"data": {"name": "digits", "image_size": 32}, "teacher": teacher, "student": {"model": "resnet10t"}}
    return resolve(validate_recipe(raw), torch.device("cpu"))


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(Data(name="digits", image_size=32))


@pytest.mark.parametrize(
    "change",
    [
        {"model_args": {"channels": [8, 8, 8, 8], "act_layer": "silu"}},
        {"architecture": "resnet10t_smallstem"},
        {"label_names": [str(number) for number in range(10)]},
        {"label_names": [str(number) for number in reversed(range(10))]},
    ],
)
def test_a_corrected_config_beside_the_weights_is_another_teacher(
    recipe: Recipe, published: Path, digits: Dataset, change: dict[str, Any]
) -> None:
    before = teacher_hash(recipe, digits)
    assert teacher_hash(recipe, digits) == before
    path = published / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert teacher_hash(recipe, digits) != before


def test_other_interpolation_is_another_teacher_though_square_pictures_are_the_same(
    recipe: Recipe, digits: Dataset
) -> None:
    other = dataclasses.replace(digits, interpolation="bilinear")
    assert teacher_hash(recipe, other) != teacher_hash(recipe, digits)
