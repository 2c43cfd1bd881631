"""Counts at the edge: batches, classes, pixels and epochs that are too few, too many or odd."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Command, assert_fails, metrics
from tests.helpers.pictures import write_folder_data, write_images

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("train.batch_size=71", 1),  # of 72 images one is left over
        ("train.batch_size=1000", 1),
        ("train.batch_size=2", 36),
        ("data.image_size=7", 4),
        ("data.image_size=33", 4),
    ],
)
def test_odd_counts_work(command: Command, tiny_recipe: Path, tmp_path: Path, override: str, steps: int) -> None:
    result = command("distill", tiny_recipe, "--set", override, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"2 epochs of {steps} steps" in result.stderr
    assert len(metrics(tmp_path / json.loads(result.stdout)["run"])) == 4


def test_one_class_is_an_input_error(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / "data" / split / "only", 8, seed=1)
    override = f"data.root={tmp_path / 'data'}"
    result = command("distill", tiny_recipe, "--set", override, cwd=tmp_path)
    assert_fails(result, 3, "one class, 'only'")
    result = command("distill", tiny_recipe, "--set", override, "--set", "data.holdout=0.5", cwd=tmp_path)
    assert_fails(result, 3, "one class, 'only'")


def test_one_image_a_class_works_and_one_image_a_batch_does_not(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    """The other case of one image a batch is in tests/cli."""
    data = write_folder_data(tmp_path / "data", train=1, evaluation=1)
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", "--set", "train.batch_size=1", cwd=tmp_path)
    assert_fails(result, 2, "batches of one image")


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["train.epochs=0"], "train.epochs"),
        (["teacher.epochs=0"], "teacher.epochs"),
        (["train.warmup_epochs=2"], "train.warmup_epochs"),
        (["train.epochs=9", "train.warmup_epochs=3"], "teacher.epochs"),
        (["train.warmup_epochs=1", "train.schedule=constant"], "train.warmup_epochs"),
        (["data.image_size=3"], "data.image_size"),
        (["train.batch_size=0"], "train.batch_size"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error_that_names_the_key(
    command: Command, tiny_recipe: Path, tmp_path: Path, overrides: list[str], key: str
) -> None:
    words = [word for item in overrides for word in ("--set", item)]
    assert_fails(command("distill", tiny_recipe, *words, cwd=tmp_path), 2, key)
    assert not list(tmp_path.iterdir())
