"""Tables of paths and labels."""

from pathlib import Path

import numpy as np
import pandas
import pytest
from PIL import Image

from compress.data.dataset import load_data
from compress.data.tables import read_table
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder_data(tmp_path / "photos", train=6, evaluation=2)


def frame(folder: Path, split: str, **names: str) -> pandas.DataFrame:
    paths = sorted((folder / split).rglob("*.png"))
    rows = [(path.relative_to(folder).as_posix(), path.parent.name) for path in paths]
    return pandas.DataFrame(rows, columns=[names.get("path", "path"), names.get("label", "label")])


def test_tables_give_the_same_data_as_class_folders(folder: Path) -> None:
    for split in ("train", "val"):
        frame(folder, split).to_csv(folder / f"{split}.csv", index=False)
    settings = {"root": str(folder), "image_size": 8}
    table = load_data(Data(name="csv", train="train.csv", evaluation="val.csv", **settings))
    own = load_data(Data(name="folder", **settings))
    assert table.class_names == own.class_names
    for name in ("train_images", "train_labels", "eval_images", "eval_labels"):
        np.testing.assert_array_equal(getattr(table, name), getattr(own, name))
    changed = frame(folder, "train")
    changed.loc[0, "label"] = "light"
    changed.to_csv(folder / "train.csv", index=False)
    again = load_data(Data(name="csv", train="train.csv", evaluation="val.csv", **settings))
    assert np.bincount(again.train_labels).tolist() == [5, 6, 7]


def test_one_table_is_enough_with_a_holdout(folder: Path) -> None:
    frame(folder, "train").to_csv(folder / "all.csv", index=False)
    data = load_data(Data(name="csv", root=str(folder), train="all.csv", holdout=0.34, image_size=8))
    assert (len(data.train_labels), len(data.eval_labels)) == (12, 6)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("swapped", [True, False])
def test_delimiter_header_and_columns_are_found(folder: Path, separator: str, header: bool, swapped: bool) -> None:
    content = frame(folder, "train", path="filename", label="species")
    content = content[["species", "filename"]] if swapped else content
    content.to_csv(folder / "table.csv", sep=separator, header=header, index=False, encoding="utf-8-sig")
    found = read_table(folder / "table.csv")
    assert {name: len(paths) for name, paths in found.paths.items()} == {"dark": 6, "grey": 6, "light": 6}


def test_columns_are_named_where_they_are_not_plain(folder: Path) -> None:
    content = frame(folder, "train", path="where", label="what").assign(sex="f", age=3)
    content.to_csv(folder / "table.csv", index=False)
    with pytest.raises(InputError, match=r"'where', 'what', 'sex', 'age'.*data\.path_column"):
        read_table(folder / "table.csv")
    with pytest.raises(InputError, match=r"data\.label_column"):
        read_table(folder / "table.csv", "where")
    assert len(read_table(folder / "table.csv", "where", "what").paths["grey"]) == 6
    with pytest.raises(InputError, match="no column 'waht'"):
        read_table(folder / "table.csv", "where", "waht")


def test_missing_files_are_listed_all_at_once(folder: Path) -> None:
    content = frame(folder, "train")
    content.to_csv(folder / "table.csv", index=False)
    for number in (1, 8):
        (folder / content.path[number]).unlink()
    with pytest.raises(InputError, match=rf"2 of 18 .*{content.path[1]}, .*{content.path[8]}"):
        read_table(folder / "table.csv")


@pytest.mark.parametrize(
    "text", ["", "\n\n", "path,label\n", "path,label\ntrain/dark/000.png,\n", "path,label\nx.png\n"]
)
def test_a_table_without_pictures_or_labels_is_an_input_error(folder: Path, text: str) -> None:
    (folder / "table.csv").write_text(text)
    with pytest.raises(InputError, match=r"table\.csv"):
        read_table(folder / "table.csv")


def test_labels_that_are_numbers_have_their_natural_order(tmp_path: Path) -> None:
    rows = []
    for number in range(12):
        Image.new("RGB", (8, 8), (number * 20, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", number))
    pandas.DataFrame(rows, columns=["image", "class"]).to_csv(tmp_path / "table.csv", index=False)
    data = load_data(Data(name="csv", root=str(tmp_path), train="table.csv", evaluation="table.csv", image_size=8))
    assert data.class_names == [str(number) for number in range(12)]
    assert data.train_images[:, 0, 0, 0].tolist() == [number * 20 for number in range(12)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "csv", "root": "x", "image_size": 8}, r"data\.train"),
        ({"name": "hub", "image_size": 8}, r"data\.repo"),
        ({"name": "folder", "root": "x", "image_size": 8, "train": "train.csv"}, r"data\.train is for"),
        ({"name": "csv", "root": "x", "train": "t.csv", "image_size": 8, "repo": "a/b"}, r"data\.repo is for"),
    ],
)
def test_settings_of_other_kinds_of_data_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Data.model_validate(settings)
