"""What is wrong with the splits stands beside the accuracies that it spoils."""

import shutil
from pathlib import Path

from compress.data import load_data
from compress.recipe import Data
from export.benchmark.summary import data_warnings
from tests.helpers.damage import not_an_image
from tests.helpers.pictures import write_folder_data


def test_copies_missing_classes_and_what_was_left_out_are_named(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path, train=50, evaluation=8)
    settings = Data(name="folder", root=str(root), image_size=8, on_bad_image="skip")
    assert data_warnings(load_data(settings)) == []
    shutil.copy(root / "train" / "grey" / "000.png", root / "val" / "grey" / "again.png")
    shutil.rmtree(root / "val" / "light")
    not_an_image(root / "train" / "dark" / "003.png")
    first, second, third = data_warnings(load_data(settings))
    assert first.startswith("1 of 17 pictures to evaluate on are also in train")
    assert second.startswith("class 'light' has no image to evaluate on")
    assert third == "Images that cannot be read were left out: 1."


def test_a_class_that_is_held_out_whole_is_named(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path, train=10, evaluation=1)
    for path in sorted((root / "train" / "dark").iterdir())[1:]:
        path.unlink()
    found = data_warnings(load_data(Data(name="folder", root=str(root), image_size=8, holdout=0.2)))
    assert found == ["data.holdout leaves no picture of class 'dark' to train on."]
