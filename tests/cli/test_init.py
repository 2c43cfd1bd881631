"""`compress init`: the recipe that it prints is one, and says what is in the folder."""

import json
import re
import shutil
from pathlib import Path

import pytest

from compress.recipe import Recipe, load_recipe
from compress.runs.starter import Folder, concerns, image_size_for, look_at
from tests.helpers.command import Command, assert_fails
from tests.helpers.paths import SHARED_WEIGHTS
from tests.helpers.pictures import write_images


def started(command: Command, folder: Path, cwd: Path, *more: object) -> tuple[Recipe, str]:
    """The recipe as it is loaded from the file that the shell wrote, and its text."""
    result = command("init", folder, *more, cwd=cwd)
    assert result.returncode == 0, result.stderr
    path = cwd / "recipe.yaml"
    path.write_text(result.stdout)
    assert "next: compress distill recipe.yaml" in result.stderr
    return load_recipe(path), result.stdout


@pytest.fixture(scope="module")
def unequal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 4 and 24 pictures of 100 pixels, without a split, in a folder whose name YAML could misread."""
    root = tmp_path_factory.mktemp("folders") / 'it\'s: a #1 "test"'
    write_images(root / "rare", 5, seed=0, size=100)
    write_images(root / "common", 30, seed=1, size=100, shade=100)
    return root


def test_a_folder_with_splits_gives_a_recipe_of_it(command: Command, pictures: Path, tmp_path: Path) -> None:
    recipe, text = started(command, pictures, tmp_path)
    assert (recipe.data.name, recipe.data.root, recipe.data.holdout) == ("folder", str(pictures), 0.0)
    assert recipe.data.image_size == 32  # the pictures have 48 pixels
    assert "60 pictures to train on, 36 to evaluate on, 3 classes" in text
    assert "median picture has 48 x 48 pixels" in text
    assert (recipe.teacher.source, recipe.student.pretrained) == ("finetune", True)
    assert recipe.train.class_weights == "none"
    assert recipe.train.epochs == 30
    assert recipe.benchmark.p90_ms is None


def test_unequal_classes_without_a_split(command: Command, unequal: Path, tmp_path: Path) -> None:
    recipe, text = started(command, unequal, tmp_path)
    assert recipe.data.root == str(unequal)
    assert recipe.data.holdout == 0.2
    assert recipe.train.class_weights == "auto"
    assert "common has 6.0 times the pictures of rare" in text
    assert "28 pictures to train on, 7 to evaluate on" in text
    assert recipe.data.image_size == 96
    checked = command("data", "check", "recipe.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "28 pictures to train on, 7 to evaluate on" in checked.stdout


def test_every_setting_has_its_reason(command: Command, unequal: Path, tmp_path: Path) -> None:
    _, text = started(command, unequal, tmp_path)
    decided = ("image_size", "holdout", "augment", "method", "epochs", "class_weights", "pretrained", "source")
    for key in (*decided, "formats", "precisions"):
        assert re.search(rf"^  {key}: .+  # .+", text, re.M), key


def test_without_two_classes_nothing_is_printed(command: Command, tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "cat", 3, seed=0)
    for folder, message in (("photos", "has one class, 'cat'"), ("none", "is no folder"), (".", "one class")):
        result = command("init", folder, cwd=tmp_path)
        assert (result.returncode, result.stdout) == (3, "")
        assert message in result.stderr


@pytest.mark.parametrize(
    ("pictures_of", "message"),
    [
        ({"cat": 1, "dog": 1}, "no picture of class 'cat' to train on once 20% of each class are held out"),
        ({"cat": 12, "dog": 1}, "class 'dog' to train on once 20% of each class are held out to evaluate on. A class "),
        ({"cat": 3, "dog": 2, "eel": 1}, "needs two at least: add some, or remove its folder"),
    ],
)
def test_a_class_of_which_nothing_is_left_to_train_on_is_refused(
    command: Command, tmp_path: Path, pictures_of: dict[str, int], message: str
) -> None:
    for name, count in pictures_of.items():
        write_images(tmp_path / "photos" / name, count, seed=count)
    result = command("init", "photos", cwd=tmp_path)
    assert result.stdout == ""
    assert_fails(result, 3, message)


@pytest.mark.parametrize("budget", ["nan", "inf", "1e400", "-1"])
def test_a_budget_that_is_no_number_above_0_is_refused(command: Command, pictures: Path, budget: str) -> None:
    result = command("init", pictures, "--p90-ms", budget, cwd=pictures.parent)
    assert result.stdout == ""
    assert_fails(result, 2, "--p90-ms", budget)


def test_two_pictures_of_a_class_are_enough(command: Command, tmp_path: Path) -> None:
    for seed, name in enumerate(("cat", "dog")):
        write_images(tmp_path / "photos" / name, 2, seed=seed)
    _, text = started(command, tmp_path / "photos", tmp_path)
    assert "2 pictures to train on, 2 to evaluate on" in text


def test_pictures_that_are_none_are_refused(command: Command, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "photos" / name / f"{number}.jpg").write_text("no picture")
    result = command("init", "photos", cwd=tmp_path)
    assert result.stdout == ""
    assert_fails(result, 3, "can be read, such as", "cat/0.jpg")


@pytest.mark.parametrize(
    ("median", "gpu", "size"),
    [
        ((640, 480), True, 224),
        ((640, 480), False, 160),
        ((300, 130), False, 128),
        ((20, 20), False, 32),
    ],
)
def test_the_size_follows_the_pictures(median: tuple[int, int], gpu: bool, size: int) -> None:
    assert image_size_for(Folder("/", {"a": 1}, {"a": 1}, "val", median), gpu=gpu) == size


def test_few_pictures_to_evaluate_on_are_told(unequal: Path) -> None:
    (told,) = concerns(look_at(unequal))
    assert "1 classes have fewer than 5 pictures to evaluate on, such as 'rare'" in told


@pytest.mark.slow
@pytest.mark.realdata
def test_the_whole_way_from_a_folder_to_a_report(command: Command, real_photos: Path, tmp_path: Path) -> None:
    if not SHARED_WEIGHTS.exists():
        pytest.skip("the published weights are not beside the checkout")
    for split, count in (("train", 6), ("validation", 3)):
        for folder in sorted((real_photos / split).iterdir())[:3]:
            place = tmp_path / "photos" / split / folder.name
            place.mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                shutil.copy(file, place)
    started(command, tmp_path / "photos", tmp_path)
    weights = (
        *("--set", f"teacher.weights={SHARED_WEIGHTS / 'tf_efficientnet_lite2'}"),
        *("--set", f"student.pretrained={SHARED_WEIGHTS / 'tf_efficientnet_lite0'}"),
    )
    quick = ("--set", "train.epochs=1", "--set", "data.image_size=64", "--out", "runs/first")
    chain = (
        ("distill", "recipe.yaml", *weights, *quick),
        ("export",),
        ("benchmark", "--runtime", "ort", "--batch", 1, "--threads", 1, "--seconds", 0),
        ("report", "runs/first"),
    )
    for words in chain:
        result = command(*words, cwd=tmp_path, timeout=900)
        assert result.returncode == 0, (words, result.stderr)
    run = tmp_path / "runs" / "first"
    assert (run / "report.html").exists()
    assert (run / "export" / "student.int8.onnx").exists()
    assert "student.int8.onnx" in json.loads((run / "benchmark.json").read_text())["verdict"]["by_file"]
