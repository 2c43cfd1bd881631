"""Pictures of every mode become what people see."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from compress.data.decode import Square
from compress.data.rgb import rgb
from compress.system.errors import InputError

GREY = np.arange(64, dtype=np.float64).reshape(8, 8) / 63
"""A ramp in 0..1."""
EXPECTED = np.repeat(np.round(GREY * 255)[..., None], 3, axis=2)


def decoded(path: Path, image: Image.Image) -> np.ndarray:
    image.save(path)
    return Square(8).read(path).astype(np.int64)


def on_white(image: Image.Image) -> np.ndarray:
    """The formula of compositing, by numpy."""
    values = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = values[..., 3:] / 255
    return np.round(values[..., :3] * alpha + 255 * (1 - alpha))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L"])
def test_what_is_transparent_is_on_white(tmp_path: Path, mode: str) -> None:
    drawing = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    ImageDraw.Draw(drawing).rectangle([2, 2, 5, 5], fill=(0, 0, 0, 255))
    if mode == "P":
        image = Image.new("P", (8, 8), 0)
        image.putpalette([0, 0, 0, 10, 10, 10])
        image.paste(1, (2, 2, 6, 6))
        image.info["transparency"] = 0
    elif mode in ("RGB", "L"):
        image = Image.new(mode, (8, 8), 0)
        image.paste(10 if mode == "L" else (10, 10, 10), (2, 2, 6, 6))
        image.info["transparency"] = 0 if mode == "L" else (0, 0, 0)
    else:
        image = drawing.convert("LA").convert(mode)
    path = tmp_path / "drawing.png"
    image = image if mode != "PA" else drawing.convert("LA")
    found = decoded(path, image)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[3, 3].max() <= 10


def test_half_transparent_pixels_are_blended_as_the_formula_says() -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA")
    assert np.abs(np.asarray(rgb(image)).astype(int) - on_white(image)).max() <= 1


def test_opaque_pictures_with_an_alpha_channel_keep_their_pixels() -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    values[..., 3] = 255
    np.testing.assert_array_equal(np.asarray(rgb(Image.fromarray(values, "RGBA"))), values[..., :3])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (0, 255), (0, 65535)])
def test_floats_are_scaled_by_the_range_that_they_fill(tmp_path: Path, low: float, high: float) -> None:
    values = (low + GREY * (high - low)).astype(np.float32)
    assert np.abs(decoded(tmp_path / "a.tif", Image.fromarray(values)) - EXPECTED).max() <= 1


@pytest.mark.parametrize(
    ("low", "high", "top"),
    [
        (0, 1.02, 1),
        (-0.01, 1, 1),
        (-0.07, 1.09, 1),
        (0, 256, 255),
        (-12.5, 270.5, 255),
        (-60.5, 1050.5, 1023),
        (0, 4101.5, 4095),
        (0, 16390.5, 16383),
        (0, 16383, 16383),
    ],
)
def test_what_resampling_overshoots_is_cut_off(tmp_path: Path, low: float, high: float, top: float) -> None:
    values = (low + GREY * (high - low)).astype(np.float32)
    expected = np.round(np.clip(values / top, 0, 1) * 255)[..., None]
    assert np.abs(decoded(tmp_path / "a.tif", Image.fromarray(values)) - expected).max() <= 1


def test_the_overshoot_of_minus_one_to_one_is_cut_off(tmp_path: Path) -> None:
    values = (-1.05 + GREY * 2.13).astype(np.float32)
    expected = np.round((np.clip(values, -1, 1) + 1) * 127.5)[..., None]
    assert np.abs(decoded(tmp_path / "a.tif", Image.fromarray(values)) - expected).max() <= 1


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_whole_numbers_as_floats_are_as_bright_as_integers(tmp_path: Path, bits: int) -> None:
    values = np.round(GREY * (2**bits - 1)).astype(np.float32)
    assert np.abs(decoded(tmp_path / "a.tif", Image.fromarray(values)) - EXPECTED).max() <= 1


def test_what_really_was_resampled_is_as_bright_as_before(tmp_path: Path) -> None:
    bars = np.repeat(np.tile([0.0, 0.0, 1.0, 1.0], 8)[None].astype(np.float32), 32, axis=0)
    resampled = Image.fromarray(bars).resize((67, 67), Image.Resampling.LANCZOS)
    values = np.asarray(resampled)
    assert values.min() < 0 < 1 < values.max()
    resampled.save(tmp_path / "a.tif")
    found = Square(67).read(tmp_path / "a.tif").astype(np.int64)
    assert np.abs(found - np.round(np.clip(values, 0, 1) * 255)[..., None]).max() <= 1


def test_a_hot_pixel_does_not_make_the_others_black() -> None:
    values = np.tile(GREY.astype(np.float32), (8, 8))
    values[0, 0] = 1.9
    expected = np.round(np.clip(values, 0, 1) * 255)
    assert np.abs(np.asarray(rgb(Image.fromarray(values))).astype(int) - expected[..., None]).max() <= 1


@pytest.mark.parametrize("brightest", [5.5, 120.0, 40_000.0])
def test_floats_of_which_nobody_knows_the_range_are_refused(tmp_path: Path, brightest: float) -> None:
    values = np.tile(GREY.astype(np.float32), (8, 8))
    values[0, 0] = brightest
    with pytest.raises(InputError, match=rf"a\.tif.*from 0 to {brightest:g}, which is no range"):
        decoded(tmp_path / "a.tif", Image.fromarray(values))


@pytest.mark.parametrize("mode", ["float", "spread"])
def test_dark_pictures_whose_range_is_certain_stay_dark(mode: str) -> None:
    values = np.round(GREY * 12)
    image = Image.fromarray(values.astype(np.float32) if mode == "float" else (values * 257).astype(np.uint16))
    np.testing.assert_array_equal(np.asarray(rgb(image))[..., 0], values)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_fewer_bits_in_sixteen_are_as_bright_as_sixteen(tmp_path: Path, bits: int, kind: str) -> None:
    values = np.round(GREY * (2**bits - 1)).astype(np.uint16)
    assert np.abs(decoded(tmp_path / f"a.{kind}", Image.fromarray(values)) - EXPECTED).max() <= 1


def test_pixels_that_are_no_number_are_black(tmp_path: Path) -> None:
    values = GREY.astype(np.float32)
    values[7, 7] = np.nan
    assert decoded(tmp_path / "a.tif", Image.fromarray(values))[7, 7].tolist() == [0, 0, 0]


@pytest.mark.parametrize("values", [GREY * 4000 - 1000, GREY * 1e6])
def test_measurements_that_are_no_picture_are_refused_with_their_range(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(InputError, match=rf"a\.tif.*from {values.min():g} to"):
        decoded(tmp_path / "a.tif", Image.fromarray(values.astype(np.float32)))
