"""The pictures behind the squares: of the right rows, as the data set holds them."""

import json
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from compress.data import load_data
from compress.data.originals import pixels, stratified
from compress.recipe import Data
from compress.system import files
from tests.helpers.pictures import write_folder_data


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_originals_become_the_images_of_their_rows(tmp_path: Path, holdout: float) -> None:
    write_folder_data(tmp_path)
    data = load_data(Data(name="folder", root=str(tmp_path), image_size=8, holdout=holdout))
    for images, originals in (
        (data.train_images, data.originals.training(range(len(data.train_images)))),
        (data.eval_images, data.originals.evaluation(range(len(data.eval_images)))),
    ):
        assert len(images) == len(originals)
        assert all(isinstance(original, Path) for original in originals)
        for image, original in zip(images, originals, strict=True):
            assert np.array_equal(data.square(Image.fromarray(pixels(original))), image)


@pytest.mark.parametrize("loader", ["resident", "stream"])
@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_what_was_left_out_is_left_out_however_the_folder_is_written(
    here: Path, holdout: float, loader: Literal["resident", "stream"]
) -> None:
    """The cache is made with one spelling of the root and read with others."""
    write_folder_data(here / "photos", train=100, evaluation=20)
    for bad in ("train/dark/007.png", "val/grey/003.png"):
        (here / "photos" / bad).write_bytes(b"no picture")
    (here / "link").symlink_to("photos")
    made = set()
    for root in ("photos", str(here / "photos"), "../" + here.name + "/photos", "link", "./photos/"):
        settings = {"name": "folder", "root": root, "image_size": 8, "holdout": holdout, "loader": loader}
        data = load_data(Data.model_validate({**settings, "on_bad_image": "skip"}))
        cut = ("train/dark/007.png",) if holdout else ("train/dark/007.png", "val/grey/003.png")
        assert {Path(path).resolve() for path in data.left_out} == {here / "photos" / bad for bad in cut}
        assert all(path.startswith(root.removeprefix("./").rstrip("/")) for path in data.left_out)
        for images, originals in (
            (data.train_images, data.originals.training(range(len(data.train_images)))),
            (data.eval_images, data.originals.evaluation(range(len(data.eval_images)))),
        ):
            expected = np.stack([data.square(Image.fromarray(pixels(original))) for original in originals])
            assert np.array_equal(images[:], expected)
        (meta,) = (path for path in files.cache_folder().glob("data/*/meta.json") if str(here) in path.read_text())
        made.add(meta.stat().st_ino)
    assert len(made) == 1


def test_a_cache_whose_left_out_paths_have_the_old_form_is_made_anew(here: Path) -> None:
    write_folder_data(here / "photos", train=100, evaluation=20)
    (here / "photos" / "val" / "grey" / "003.png").write_bytes(b"no picture")
    settings = Data(name="folder", root=str(here / "photos"), image_size=8, on_bad_image="skip")
    expected = load_data(settings)
    (path,) = (path for path in files.cache_folder().glob("data/*/meta.json") if str(here) in path.read_text())
    meta = json.loads(path.read_text())
    old = {
        "fingerprint": f"3 {meta['fingerprint'].split()[1]}",
        "left_out": {"photos/val/grey/003.png": "not an image"},
    }
    path.write_text(json.dumps({**meta, **old}))
    data = load_data(settings)
    assert data.left_out == expected.left_out
    assert data.sha256 == expected.sha256


def test_data_without_files_gives_its_pixels() -> None:
    data = load_data(Data(name="digits", image_size=8))
    (picture,) = data.originals.evaluation([7])
    assert np.array_equal(pixels(picture), data.eval_images[7])


def test_images_are_calibrated_on_as_the_evaluation_would_see_them(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    rows = np.array([3, 30, 60])
    whole, cut = (
        load_data(Data(name="folder", root=str(tmp_path), image_size=8, crop_pct=crop_pct)) for crop_pct in (1, 0.5)
    )
    assert np.array_equal(whole.train_as_evaluated(rows), whole.train_images[rows])
    for seen, row in zip(cut.train_as_evaluated(rows), rows.tolist(), strict=True):
        (path,) = cut.originals.training([row])
        assert isinstance(path, Path)
        enlarged = Image.open(path).convert("RGB").resize((16, 16), Image.Resampling.BICUBIC)
        assert np.array_equal(seen, np.asarray(enlarged.crop((4, 4, 12, 12))))


def test_rows_are_spread_over_the_classes() -> None:
    labels = np.array([0] * 50 + [1] * 2 + [2] * 50)
    assert Counter(labels[stratified(labels, per_class=3, most=30)].tolist()) == {0: 3, 1: 2, 2: 3}
    assert Counter(labels[stratified(labels, per_class=9, most=6)].tolist()) == {0: 2, 1: 2, 2: 2}
    many = np.repeat(np.arange(100), 4)
    chosen = many[stratified(many, per_class=3, most=10)]
    assert len(set(chosen.tolist())) == 10
    assert chosen.max() - chosen.min() >= 90


@pytest.mark.parametrize("holdout", [0.0, 0.25])
def test_pictures_without_files_are_evaluated_as_their_originals_are_deployed(holdout: float) -> None:
    data = load_data(Data(name="digits", image_size=20, crop_pct=0.875, holdout=holdout))
    originals = data.originals.evaluation(range(30))
    expected = np.stack([data.square(Image.fromarray(pixels(original))) for original in originals])
    assert np.array_equal(data.eval_images[:30], expected)
