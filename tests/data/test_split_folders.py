"""Splits under the names that people give them: never two classes, and never left out without a word."""

import shutil
from pathlib import Path

import pytest

from compress.data.check import check_data
from compress.data.dataset import Dataset, load_data
from compress.recipe import Data
from compress.runs.starter import concerns, look_at
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data, write_images


def settings(root: Path, holdout: float = 0.0) -> Data:
    return Data(name="folder", root=str(root), image_size=8, holdout=holdout)


def load(root: Path, holdout: float = 0.0) -> Dataset:
    return load_data(settings(root, holdout))


def renamed(root: Path, train: str, evaluation: str) -> Path:
    """The data set with its splits under other names."""
    write_folder_data(root, train=10, evaluation=4)
    for before, after in (("train", train), ("val", evaluation)):
        (root / before).rename(root / "aside")
        (root / "aside").rename(root / after)
    return root


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [
        ("Training", "Testing"),
        ("training_set", "test_set"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("train_set", "val_set"),
        ("train", "Val"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "testing"),
    ],
)
def test_splits_of_other_names_are_the_splits_of_the_plain_names(tmp_path: Path, train: str, evaluation: str) -> None:
    plain = load(write_folder_data(tmp_path / "plain", train=10, evaluation=4))
    root = renamed(tmp_path / "photos", train, evaluation)
    found = load(root)
    assert found.sha256 == plain.sha256
    assert (found.class_names, found.eval_split, found.warnings) == (plain.class_names, evaluation, ())
    seen = look_at(root)
    assert (seen.split, seen.train, seen.evaluation) == (
        evaluation,
        dict.fromkeys(plain.class_names, 10),
        dict.fromkeys(plain.class_names, 4),
    )
    report = check_data(settings(root))
    assert (report.train_images, report.eval_images, report.stops) == (30, 12, [])
    held = load(root, holdout=0.2)
    assert (held.class_names, held.labeled, len(held.eval_labels)) == (plain.class_names, 24, 6)


def test_of_several_splits_to_evaluate_on_the_others_are_named(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path / "photos", train=10, evaluation=4)
    for name in ("Testing", "dev"):
        write_images(root / name / "dark", 2, seed=len(name))
    (root / "eval").mkdir()  # is empty
    found = load(root)
    assert (found.eval_split, found.warnings) == ("val", ("left out: Testing, dev, beside train and val",))
    assert "left out: Testing, dev, beside train and val" in concerns(look_at(root))
    assert "left out: Testing, dev, beside train and val" in [each.what for each in check_data(settings(root)).findings]


def test_pictures_in_folders_named_like_splits_are_no_classes(tmp_path: Path) -> None:
    for number, name in enumerate(("Training", "Testing")):
        write_images(tmp_path / name, 10, seed=number)
    for look in (lambda: look_at(tmp_path), lambda: load(tmp_path, holdout=0.2)):
        with pytest.raises(InputError, match=r"holds Testing, Training without class folders.*train/CLASS"):
            look()
    assert check_data(settings(tmp_path, holdout=0.2)).stops


@pytest.mark.parametrize("alone", ["Testing", "val", "dev"])
def test_a_split_to_evaluate_on_without_one_to_train_on_is_no_class(tmp_path: Path, alone: str) -> None:
    for number, name in enumerate(("cat", "dog", f"{alone}/cat")):
        write_images(tmp_path / name, 10, seed=number)
    with pytest.raises(InputError, match=f"has {alone} and no train.*Rename"):
        look_at(tmp_path)
    with pytest.raises(InputError, match="train is missing"):
        load(tmp_path, holdout=0.2)


def test_a_class_with_the_name_of_a_split_is_one_and_is_said(tmp_path: Path) -> None:
    for number, name in enumerate(("Bus", "Car", "Train")):
        write_images(tmp_path / name, 10, seed=number)
    found = load(tmp_path, holdout=0.2)
    assert found.class_names == ["Bus", "Car", "Train"]
    assert any(warning.startswith("'Train' has the name of a split") for warning in found.warnings)


def test_where_it_is_not_plain_what_is_trained_on_nothing_is_chosen(tmp_path: Path) -> None:
    for number, name in enumerate(("Bus", "Train/steam", "Train/diesel")):
        write_images(tmp_path / name, 10, seed=number)
    for look in (lambda: look_at(tmp_path), lambda: load(tmp_path, holdout=0.2), lambda: load(tmp_path)):
        with pytest.raises(InputError, match=r"holds Train, which has the name of a split, beside Bus.*Rename Train"):
            look()
    shutil.rmtree(tmp_path / "Bus")
    assert load(tmp_path, holdout=0.2).class_names == ["diesel", "steam"]
    write_images(tmp_path / "training_set" / "steam", 2, seed=5)
    with pytest.raises(InputError, match="beside training_set"):
        load(tmp_path, holdout=0.2)
