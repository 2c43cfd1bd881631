"""Folders of one's own as people have them: names, layouts, splits that lose something, and what is said of them."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data.dataset import Dataset, load_data
from compress.data.decode import Square
from compress.data.picture_files import PictureFiles
from compress.data.split_checks import constant_classes
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data, write_images


def load(root: Path, **more: object) -> Dataset:
    return load_data(Data.model_validate({"name": "folder", "root": str(root), "image_size": 8, **more}))


def test_composed_and_decomposed_names_are_one_class(tmp_path: Path) -> None:
    for split, form in (("train", "NFC"), ("val", "NFD")):
        for number, name in enumerate(("café", "ガ")):
            write_images(tmp_path / split / unicodedata.normalize(form, name), 2, seed=number)
    write_images(tmp_path / "train" / unicodedata.normalize("NFD", "café"), 3, seed=7)
    data = load(tmp_path)
    assert data.class_names == ["café", "ガ"]
    assert np.bincount(data.train_labels).tolist() == [5, 2]
    assert data.eval_labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("name", ["a b", "a\u00a0b", "全\u3000角", "👩‍🔬", "ن\u200cن", "🫨", "1e3", "null"])
def test_spaces_joiners_and_emoji_are_legal_in_names(tmp_path: Path, name: str) -> None:
    for number, label in enumerate((name, "other")):
        write_images(tmp_path / "train" / label, 1, seed=number)
        write_images(tmp_path / "val" / label, 1, seed=number + 9)
    assert unicodedata.normalize("NFC", name) in load(tmp_path).class_names


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "a\x1b[31mb", "a\x85b", "a\u2028b", "a\x7f", "caf\udce9"])
def test_control_characters_are_not(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "train" / name, 1, seed=0)
    with pytest.raises(InputError, match="not plain text"):
        load(tmp_path)


def test_classes_without_train_need_a_holdout(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        write_images(tmp_path / name, 10, seed=number)
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match=r"train is missing.*data\.holdout"):
        load(tmp_path)
    data = load(tmp_path, holdout=0.2)
    assert data.class_names == ["cat", "dog"]
    assert (len(data.train_labels), len(data.eval_labels)) == (16, 4)


@pytest.mark.parametrize("how", ["link", "copy", "one"])
def test_pictures_in_both_splits_are_counted(tmp_path: Path, how: str) -> None:
    write_folder_data(tmp_path, train=4, evaluation=2)
    assert load(tmp_path).warnings == ()
    if how == "one":
        shutil.copy(tmp_path / "train" / "grey" / "002.png", tmp_path / "val" / "light" / "other.png")
    else:
        shutil.rmtree(tmp_path / "val")
        (tmp_path / "val").symlink_to("train") if how == "link" else shutil.copytree(
            tmp_path / "train", tmp_path / "val"
        )
    (warning,) = load(tmp_path).warnings
    assert warning.startswith("1 of 7 pictures" if how == "one" else "12 of 12 pictures")
    assert load(tmp_path).warnings == (warning,)  # from the cache, too


def test_large_files_that_differ_in_the_middle_are_not_the_same_picture(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for split, label in (("train", "a"), ("train", "b"), ("val", "a"), ("val", "b")):
        (tmp_path / split / label).mkdir(parents=True)
        pixels[32, 32] += 1
        Image.fromarray(pixels).save(tmp_path / split / label / "x.ppm")
    assert load(tmp_path).warnings == ()


def test_a_class_that_is_held_out_whole_or_never_judged_is_said(tmp_path: Path) -> None:
    for name, count in (("common", 10), ("rare", 1)):
        write_images(tmp_path / "train" / name, count, seed=count)
    assert any("'rare' to train on" in warning for warning in load(tmp_path, holdout=0.1).warnings)
    write_images(tmp_path / "val" / "common", 2, seed=5)
    assert any("'rare' has no image to evaluate on" in warning for warning in load(tmp_path).warnings)


def chalk(folder: Path, count: int) -> None:
    """White drawings on nothing."""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGBA", (8, 8), (255, 255, 255, 40 * (number % 4))).save(folder / f"{number:03d}.png")


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_a_class_of_which_nothing_is_seen_is_said(tmp_path: Path, loader: str) -> None:
    write_folder_data(tmp_path, train=3, evaluation=2)
    chalk(tmp_path / "train" / "chalk", 3)
    write_images(tmp_path / "val" / "chalk", 1, seed=77)
    (warning,) = load(tmp_path, loader=loader).warnings
    assert "every picture of class 'chalk' is of one colour" in warning
    write_images(tmp_path / "train" / "chalk", 1, seed=78)  # the first of them
    assert load(tmp_path, loader=loader).warnings == ()


@pytest.mark.parametrize("loader", ["resident", "stream"])
@pytest.mark.parametrize("crop_pct", [1.0, 0.5])
def test_a_class_of_which_nothing_is_evaluated_is_said(tmp_path: Path, loader: str, crop_pct: float) -> None:
    write_folder_data(tmp_path, train=3, evaluation=2)
    write_images(tmp_path / "train" / "chalk", 3, seed=77)
    chalk(tmp_path / "val" / "chalk", 2)
    (warning,) = load(tmp_path, loader=loader, crop_pct=crop_pct).warnings
    assert "every picture to evaluate on of class 'chalk' is of one colour" in warning


def test_few_pictures_in_files_are_looked_at_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "full", 40, seed=77)
    chalk(tmp_path / "chalk", 1000)
    (tmp_path / "chalk" / "000.png").write_bytes(b"no picture")
    paths = [str(path) for name in ("chalk", "full") for path in sorted((tmp_path / name).iterdir())]
    pictures, labels = PictureFiles.of(paths, tmp_path, Square(8)), np.repeat([0, 1], [1000, 40])
    read, opened = Square.read, []
    monkeypatch.setattr(Square, "read", lambda square, path: opened.append(str(path)) or read(square, path))
    (warning,) = constant_classes(pictures, labels, ["chalk", "full"])
    assert "class 'chalk' is of one colour" in warning
    assert opened.count(str(tmp_path / "full" / "000.png")) == 1
    assert len(opened) <= 32 + 1


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_all_bad_pictures_are_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str) -> None:
    monkeypatch.setattr("compress.data.cache._SAMPLE", 2)  # the mean is taken of a few pictures alone
    write_folder_data(tmp_path, train=6, evaluation=2)
    bad = [tmp_path / "train" / name / "003.png" for name in ("dark", "grey", "light")]
    for path in bad:
        path.write_bytes(b"no picture")
    for workers in (1, 2):
        monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", 9 if workers == 2 else 1000)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
        with pytest.raises(InputError) as found:
            load(tmp_path, loader=loader)
        assert all(str(path) in found.value.message for path in bad)
        assert found.value.message.startswith("3 of 24 images cannot be read")


def test_workers_do_not_import_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder_data(tmp_path / "data", train=4, evaluation=2)
    (tmp_path / "work").mkdir()
    for name in ("random", "queue", "PIL", "compress", "tempfile"):
        (tmp_path / "work" / f"{name}.py").write_text(f"open({str(tmp_path / 'seen')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert len(load(data).train_labels) == 12
    assert not os.path.exists(tmp_path / "seen")


@pytest.mark.parametrize(
    ("size", "narrow", "said"), [((20, 8), 10, ""), ((16, 8), 10, None), ((8, 24), 1, "10%"), ((8, 24), 0, None)]
)
def test_pictures_of_which_a_square_shows_less_than_half_are_said(
    tmp_path: Path, size: tuple[int, int], narrow: int, said: str | None
) -> None:
    for split, count in (("train", 5), ("val", 2)):
        for number, name in enumerate(("left", "right")):
            write_images(tmp_path / split / name, count, seed=number + count)
    for path in sorted((tmp_path / "train").rglob("*.png"))[:narrow]:
        Image.new("RGB", size, (narrow, 7, len(path.parent.name))).save(path)
    found = [text for text in load(tmp_path).warnings if "more than twice as long as wide" in text]
    assert len(found) == (said is not None)
    assert all(said in text and "data.fit: pad" in text for text in found if said)
    assert not [text for text in load(tmp_path, fit="pad").warnings if "as long as wide" in text]


def test_of_a_class_without_pictures_it_is_said_what_that_class_holds(tmp_path: Path) -> None:
    train = tmp_path / "train"
    write_images(train / "a", 2, seed=0)
    (train / "a" / "3.heic").write_bytes(b"of another class")
    (train / "b").mkdir()
    with pytest.raises(InputError, match="/b holds no image"):
        load(tmp_path, holdout=0.5)
    (train / "b" / "1.heic").write_bytes(b"its own")
    with pytest.raises(InputError, match="/b holds only pictures of a kind that Pillow does not open"):
        load(tmp_path, holdout=0.5)
