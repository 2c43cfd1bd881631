"""Mean and deviation of the channels: those of numpy, without the pictures in memory."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from compress.data.statistics import channel_statistics
from compress.system.files import map_array


def test_they_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5000, 3, 2, 3), dtype=np.uint8)  # more than one part
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((images / 255).mean(axis=(0, 1, 2)), abs=6e-5)
    assert std == pytest.approx((images / 255).std(axis=(0, 1, 2)), abs=6e-5)


def test_a_channel_of_one_value_has_a_deviation_that_can_be_divided_by() -> None:
    assert channel_statistics(np.full((4, 2, 2, 3), 51, dtype=np.uint8)) == ([0.2] * 3, [0.01] * 3)


@pytest.mark.parametrize("size", [224, 384, 3000])
def test_no_picture_is_so_large_that_they_need_much_memory(size: int) -> None:
    images = np.broadcast_to(np.uint8(51), (64_000_000 // size**2 + 1, size, size, 3))
    tracemalloc.start()
    assert channel_statistics(images)[0] == [0.2] * 3
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 150e6  # 64 million pixels are 512 MB as int64


def test_pictures_in_a_file_are_read_part_by_part(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40_000, 16, 16, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    expected = (pixels[..., 0] / 255).mean()
    del pixels
    images = map_array(tmp_path / "images.npy")
    tracemalloc.start()
    mean, _ = channel_statistics(images)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert mean[0] == pytest.approx(expected, abs=6e-5)
    assert most < images.nbytes / 2
