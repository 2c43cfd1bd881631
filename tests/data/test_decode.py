"""Image files: read rightly whatever their kind, by many processes too, or named and refused."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.data import decode
from compress.data.dataset import load_data
from compress.data.decode import Square, read_images
from compress.recipe import Data
from compress.system import console, platform
from compress.system.errors import InputError
from tests.helpers.damage import empty, not_an_image, truncate
from tests.helpers.pictures import write_folder_data


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "I"])
def test_every_kind_of_image_is_read_like_its_rgb_original(tmp_path: Path, mode: str) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode in ("I;16", "I"):
        image = Image.fromarray((grey.astype(np.uint16) * 257) if mode == "I;16" else grey.astype(np.int32) * 257)
    else:
        image = (
            Image.fromarray(grey).convert(mode) if mode == "P" else Image.fromarray(grey).convert("RGB").convert(mode)
        )
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I") else "image.png")
    image.save(path)
    expected = (grey > 127) * 255 if mode == "1" else grey
    found = Square(8).read(path).astype(int)
    tolerance = 255 if mode == "1" else 1  # a bilevel image is dithered
    assert np.abs(found - expected[..., None].astype(int)).max() <= tolerance
    assert set(np.unique(found)) <= {0, 255} or mode != "1"


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = Square(8).read(tmp_path / "turned.png")
    assert turned[:, -1].min() == 255
    assert turned[:, 0].max() == 0


@pytest.mark.parametrize("damage", [truncate, not_an_image, empty])
def test_a_damaged_image_is_named_and_never_skipped(tmp_path: Path, damage: object) -> None:
    write_folder_data(tmp_path)
    path = tmp_path / "train" / "grey" / "003.png"
    damage(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"grey/003\.png"):
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))


def test_many_images_are_decoded_by_workers_to_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder_data(tmp_path, train=12)
    settings = Data(name="folder", root=str(tmp_path), image_size=8)
    serial = load_data(settings)
    shutil.rmtree(os.environ["COMPRESS_CACHE"] + "/data")
    monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", 1)
    monkeypatch.setattr("compress.system.platform.usable_cpus", lambda: 2)
    parallel = load_data(settings)
    np.testing.assert_array_equal(serial.train_images, parallel.train_images)
    truncate(tmp_path / "train" / "light" / "005.png")
    with pytest.raises(InputError, match=r"light/005\.png"):
        load_data(settings)


@pytest.mark.parametrize("name", ["random", "queue", "compress", "PIL", "numpy"])
def test_workers_leave_a_file_of_the_user_alone_that_is_named_like_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_folder_data(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / f"{name}.py").write_text("raise SystemExit('my own script')\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", 1)
    monkeypatch.setattr("compress.system.platform.usable_cpus", lambda: 2)
    data = load_data(Data(name="folder", root=str(tmp_path), image_size=8))
    assert len(data.train_images) == 72


def test_decoding_works_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import compress.data.decode as images\nimages._WORTH_A_PROCESS = 1\n"
        "from compress.data import load_data\nfrom compress.recipe import Data\n"
        f"print(load_data(Data(name='folder', root={str(tmp_path)!r}, image_size=8)).train_images.shape)\n"
    )
    environment = {**os.environ, "COMPRESS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == "(72, 8, 8, 3)", result.stderr


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, list[str]]:
    """Data of 360 images, with the paths of three that cannot be read."""
    root = write_folder_data(tmp_path / "data", train=100, evaluation=20)
    paths = [
        root / "train" / "dark" / "007.png",
        root / "train" / "light" / "099.png",
        root / "val" / "grey" / "003.png",
    ]
    for path, damage in zip(paths, (truncate, not_an_image, empty), strict=True):
        damage(path)
    return root, [str(path) for path in paths]


@pytest.mark.parametrize("files_a_process", [10, 10_000])
def test_all_images_that_cannot_be_read_are_named_at_once(
    damaged: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch, files_a_process: int
) -> None:
    monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", files_a_process)
    root, bad = damaged
    with pytest.raises(InputError, match="3 of 360 images") as error:
        load_data(Data(name="folder", root=str(root), image_size=8))
    assert all(path in str(error.value) for path in bad)


def test_of_many_images_that_cannot_be_read_ten_are_named(tmp_path: Path) -> None:
    write_folder_data(tmp_path, train=12)
    for path in (tmp_path / "train" / "dark").iterdir():
        not_an_image(path)
    with pytest.raises(InputError, match=r"12 of .* and 2 more\. `compress data check") as error:
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))
    assert str(error.value).count(".png") == 10


def test_images_that_cannot_be_read_are_left_out_if_asked(damaged: tuple[Path, list[str]]) -> None:
    root, bad = damaged
    settings = {"name": "folder", "root": str(root), "image_size": 8}
    found = load_data(Data.model_validate({**settings, "on_bad_image": "skip"}))
    assert set(found.left_out) == set(bad)
    with pytest.raises(InputError, match="3 of 360 images"):  # the cache knows what was left out
        load_data(Data.model_validate(settings))
    for path in bad:
        Path(path).unlink()
    whole = load_data(Data.model_validate(settings))
    assert whole.left_out == {}
    for name in ("train_images", "train_labels", "eval_images", "eval_labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))


def test_more_than_one_image_in_a_hundred_is_not_left_out(damaged: tuple[Path, list[str]]) -> None:
    root, _ = damaged
    not_an_image(root / "train" / "dark" / "050.png")
    with pytest.raises(InputError, match="more than one in a hundred"):
        load_data(Data(name="folder", root=str(root), image_size=8, on_bad_image="skip"))


@pytest.mark.parametrize("workers", [1, 2])
def test_decoding_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(platform, "usable_cpus", lambda: workers)
    monkeypatch.setattr(decode, "_WORTH_A_PROCESS", 60)
    shown: list[int] = []
    monkeypatch.setattr(console.Bar, "show", lambda self, done, note="": shown.append(done))
    write_folder_data(tmp_path, train=40)
    paths = [str(path) for path in sorted((tmp_path / "train").rglob("*.png"))]
    assert read_images(paths, Square(8), tmp_path / "pixels.npy") == {}
    assert shown == sorted(shown)
    assert 100 <= shown[-1] <= 120
