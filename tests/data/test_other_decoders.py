"""The hash of pictures in files follows from the files, and not from what this machine's Pillow decodes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from compress.data import cache, load_data
from compress.recipe import Data
from tests.helpers.pictures import write_folder_data


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_pictures_that_another_pillow_decodes_otherwise_are_the_same_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: str
) -> None:
    root = write_folder_data(tmp_path / "data")
    settings = Data.model_validate({"name": "folder", "root": str(root), "image_size": 8, "loader": loader})
    here = load_data(settings)

    def read_otherwise(paths: Any, square: Any, out: Path) -> Any:
        problems = cache_read(paths, square, out)
        np.save(out, np.load(out) ^ 1)
        return problems

    cache_read = cache.read_images
    monkeypatch.setattr(cache, "read_images", read_otherwise)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "elsewhere"))
    there = load_data(settings)
    assert not np.array_equal(there.eval_images, here.eval_images)
    assert there.sha256 == here.sha256
    smaller = load_data(settings.model_copy(update={"image_size": 7}))
    assert smaller.sha256 != here.sha256


@pytest.mark.parametrize("split", ["train", "val"])
def test_each_byte_of_a_large_picture_that_is_decoded_here_counts(tmp_path: Path, split: str) -> None:
    root = write_folder_data(tmp_path / "data")
    path = next((root / split).glob("*/")) / "large.bmp"
    Image.fromarray(np.full((300, 300, 3), 90, np.uint8)).save(path)
    settings = Data(name="folder", root=str(root), image_size=8, loader="resident")
    before = load_data(settings).sha256
    content = bytearray(path.read_bytes())
    content[40_000] ^= 128
    path.write_bytes(content)
    assert load_data(settings).sha256 != before
