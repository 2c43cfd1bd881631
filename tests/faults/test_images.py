"""Images of every kind and in every state: read rightly, or named and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command import Command, assert_fails
from tests.helpers.damage import a_link_to_nowhere, huge, not_an_image, truncate
from tests.helpers.pictures import write_folder_data, write_images

pytestmark = pytest.mark.faults


def palette(image: Image.Image, path: Path) -> None:
    image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path.with_suffix(".png"))


def cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path.with_suffix(".tif"))


def grey(image: Image.Image, path: Path) -> None:
    image.convert("L").save(path.with_suffix(".png"))


def grey_16_bit(image: Image.Image, path: Path) -> None:
    values = np.asarray(image.convert("L")).astype(np.uint16) * 257
    Image.fromarray(values).save(path.with_suffix(".png"))


def dark_16_bit(image: Image.Image, path: Path) -> None:
    """No value above 255 of 65,535: black, though as 8 bits it would be a picture."""
    values = np.asarray(image.convert("L")).astype(np.uint16)
    Image.fromarray(values).save(path.with_suffix(".png"))


def opaque(image: Image.Image, path: Path) -> None:
    image.convert("RGBA").save(path.with_suffix(".png"))


def probabilities(command: Command, run: Path, image: Path) -> dict[str, float]:
    (row,) = json.loads(command("predict", run, image, "--json", cwd=image.parent).stdout)
    return {entry["class"]: entry["probability"] for entry in row["classes"]}


@pytest.mark.parametrize("save", [palette, cmyk, grey, grey_16_bit, opaque])
def test_an_image_in_another_mode_is_classified_like_its_rgb_original(
    command: Command, finished: Path, tmp_path: Path, save: Callable[[Image.Image, Path], None]
) -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4, 3, axis=2)
    original = Image.fromarray(ramp)
    original.save(tmp_path / "original.png")
    save(original, tmp_path / "other")
    (other,) = tmp_path.glob("other.*")
    expected = probabilities(command, finished, tmp_path / "original.png")
    assert probabilities(command, finished, other) == pytest.approx(expected, abs=0.02)


def test_a_dark_16_bit_image_is_dark(command: Command, finished: Path, tmp_path: Path) -> None:
    bright = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    dark_16_bit(bright, tmp_path / "dark")
    Image.fromarray(np.full((8, 8, 3), 1, np.uint8)).save(tmp_path / "black.png")
    expected = probabilities(command, finished, tmp_path / "black.png")
    assert probabilities(command, finished, tmp_path / "dark.png") == pytest.approx(expected, abs=0.02)


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "split"),
    [
        *((damage, "train") for damage in (truncate, corrupt, not_an_image, huge, a_link_to_nowhere)),
        (truncate, "val"),
    ],
)
def test_an_image_that_is_not_whole_is_named_and_never_skipped(
    command: Command, tiny_recipe: Path, tmp_path: Path, damage: Callable[[Path], None], split: str
) -> None:
    data = write_folder_data(tmp_path / "data", train=4, evaluation=4)
    damage(data / split / "grey" / "002.png")
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path)
    assert_fails(result, 3, f"{split}/grey/002.png")


def empty_class(data: Path) -> str:
    (data / "train" / "void").mkdir()
    return "train/void"


def stranger_in_val(data: Path) -> str:
    write_images(data / "val" / "stranger", 2, seed=3)
    return "'stranger'"


def another_file(data: Path) -> str:
    (data / "train" / "grey" / "list.csv").write_text("x")
    return "grey/list.csv"


@pytest.mark.parametrize("change", [empty_class, stranger_in_val, another_file])
def test_a_folder_that_does_not_fit_is_named(
    command: Command, tiny_recipe: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    data = write_folder_data(tmp_path / "data", train=4, evaluation=4)
    named = change(data)
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path)
    assert_fails(result, 3, named)
