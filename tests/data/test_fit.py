"""How a picture becomes a square: timm's own evaluation transform is the reference, for every fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image

from compress.data import load_data
from compress.data.decode import MAX_PIXELS, Square
from compress.data.preprocessing import PADDED_MEAN, PADDED_STD, Preprocessing
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = ((300, 411), (411, 300), (32, 32), (37, 31), (1, 1), (1, 40), (40, 1), (30, 630), (630, 30), (500, 250))


def by_timm(image: Image.Image, mode: str, crop_pct: float, kernel: str) -> NDArray[np.uint8]:
    """The pixels of timm's transform, whose normalisation is taken off again."""
    transform: Any = timm.data.create_transform(
        (3, 32, 32), interpolation=kernel, crop_pct=crop_pct, crop_mode=mode, mean=MEAN, std=STD, is_training=False
    )
    values = transform(image) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    return (values * 255).round().permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.mark.parametrize(("fit", "mode"), [("crop", "center"), ("stretch", "squash"), ("pad", "border")])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875, 0.9])
def test_every_fit_gives_the_pixels_of_timms_evaluation_transform(fit: str, mode: str, crop_pct: float) -> None:
    rng = np.random.default_rng(0)
    for kernel in ("bicubic", "bilinear"):
        seen = Preprocessing.of(
            {"mean": MEAN, "std": STD, "interpolation": kernel, "crop_pct": crop_pct, "crop_mode": mode}, "timm"
        )
        assert seen.fit == fit
        square = Square.of(32, seen)
        for height, width in SIZES:
            image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            expected = by_timm(image, mode, crop_pct, kernel)
            assert np.array_equal(square(image), expected), (kernel, height, width)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_picture_of_that_size_keeps_its_pixels(fit: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(Square(32, fit=fit)(Image.fromarray(pixels)), pixels)  # type: ignore[arg-type]


def test_a_strip_is_cropped_without_being_made_as_a_whole() -> None:
    """As a whole it would take 600 MB; resized in two steps, its middle is the same."""
    strip = np.random.default_rng(0).integers(0, 256, (1, 6000, 3), dtype=np.uint8)
    square = Square(160, "bilinear")
    assert np.prod(square.resized(6000, 1), dtype=np.int64) > MAX_PIXELS
    middle = Image.fromarray(strip[:, 2990:3010]).resize((3200, 160), Image.Resampling.BILINEAR)
    expected = np.asarray(middle.crop((1520, 0, 1680, 160))).astype(int)
    assert np.abs(square(Image.fromarray(strip)) - expected).max() <= 1


def test_an_unknown_crop_mode_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"config\.json: pretrained_cfg\.crop_mode is not as timm writes it"):
        Preprocessing.of({"crop_mode": "middle"}, "config.json")


def test_the_recipe_comes_before_the_weights_and_each_fit_has_its_own_cache_and_hash(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    for path in (tmp_path / "val" / "grey").iterdir():
        Image.open(path).resize((12, 20)).save(path)
    found = {
        fit: load_data(Data(name="folder", root=str(tmp_path), image_size=8, fit=fit), Preprocessing(fit="stretch"))
        for fit in (None, "crop", "stretch", "pad")
    }
    assert [data.fit for data in found.values()] == ["stretch", "crop", "stretch", "pad"]
    assert len({data.sha256 for data in found.values()}) == 3
    row = int(np.flatnonzero(found["pad"].eval_labels == found["pad"].class_names.index("grey"))[0])
    picture = Image.open(sorted((tmp_path / "val" / "grey").iterdir())[0])
    for fit, data in found.items():
        transform = {"crop": "center", "pad": "border"}.get(fit or "", "squash")
        expected: Any = timm.data.create_transform(
            (3, 8, 8), interpolation="bicubic", crop_pct=1.0, crop_mode=transform, mean=PADDED_MEAN, std=PADDED_STD
        )(picture)
        pixels = expected * torch.tensor(PADDED_STD).view(3, 1, 1) + torch.tensor(PADDED_MEAN).view(3, 1, 1)
        assert np.array_equal(data.eval_images[row], (pixels * 255).round().permute(1, 2, 0).to(torch.uint8).numpy())
    assert (found["pad"].mean, found["pad"].std) == (PADDED_MEAN, PADDED_STD)


def test_pictures_to_train_on_have_the_fit_of_the_evaluation_and_are_not_cropped_further(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, :4] = 255
    path = sorted((tmp_path / "train" / "dark").iterdir())[0]
    Image.fromarray(wide).save(path)
    white = {}
    for fit in ("crop", "stretch"):
        data = load_data(Data(name="folder", root=str(tmp_path), image_size=8, fit=fit, crop_pct=0.5))
        white[fit] = data.train_images[0].mean() / 255
    assert white["crop"] < 0.01
    assert white["stretch"] == pytest.approx(0.25, abs=0.05)
