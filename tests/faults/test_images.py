"""Images of every kind and in every state: read rightly, or named and refused."""

import json
import os
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


def only_heic(data: Path) -> str:
    (data / "train" / "phone").mkdir()
    (data / "train" / "phone" / "IMG_0001.HEIC").write_bytes(b"x")
    return "Pillow does not open"


@pytest.mark.parametrize("change", [empty_class, stranger_in_val, only_heic])
def test_a_folder_that_does_not_fit_is_named(
    command: Command, tiny_recipe: Path, tmp_path: Path, change: Callable[[Path], str]
) -> None:
    data = write_folder_data(tmp_path / "data", train=4, evaluation=4)
    named = change(data)
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path)
    assert_fails(result, 3, named)


def test_what_is_left_out_is_said_and_kept_in_the_manifest(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data", train=4, evaluation=4)
    (data / "train" / "grey" / "list.csv").write_text("x")
    write_images(data / "train", 3, seed=0)
    result = command("distill", tiny_recipe, "--set", f"data.root={data}", "--json", cwd=tmp_path)
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("warning: left out"))
    assert "1 (files that are no pictures by their ending, such as" in line
    assert "3 (pictures in no class folder" in line
    assert json.loads(result.stdout)["data"]["warnings"] == [line.removeprefix("warning: ")]


def test_predict_takes_folders_and_refuses_pipes(command: Command, finished: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "photos" / "deep", 2, seed=0)
    write_images(tmp_path / "photos" / "@eaDir", 1, seed=0)
    rows = json.loads(command("predict", finished, tmp_path / "photos", "--json", cwd=tmp_path).stdout)
    assert [Path(row["image"]).relative_to(tmp_path).as_posix() for row in rows] == [
        "photos/deep/000.png",
        "photos/deep/001.png",
    ]
    os.mkfifo(tmp_path / "pipe.png")
    assert_fails(command("predict", finished, tmp_path / "pipe.png", cwd=tmp_path, timeout=60), 3, "pipe.png")
