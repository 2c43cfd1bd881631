"""The pictures behind the squares: of the right rows, as the data set holds them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data import load_data
from compress.data.originals import pixels, stratified
from compress.recipe import Data
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
