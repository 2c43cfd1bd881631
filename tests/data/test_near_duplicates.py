"""Copies of a picture are found, and other pictures are not taken for copies."""

import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.fftpack import dct
from scipy.spatial.distance import cdist

from compress.data.near_duplicates import DISTANCE, near, near_pairs, perceptual_hashes


def phash_of_imagehash(image: Image.Image) -> NDArray[np.bool_]:
    """The function phash of the library imagehash 4.3, for its default sizes, by its own steps."""
    pixels = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS))
    low = dct(dct(pixels, axis=0), axis=1)[:8, :8]
    return (low > np.median(low)).flatten()


def bits(hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1).astype(bool)


def smooth(count: int, side: int = 48) -> list[Image.Image]:
    coarse = np.random.default_rng(0).integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    return [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse]


def stacked(images: list[Image.Image]) -> NDArray[np.uint8]:
    return np.stack([np.asarray(image) for image in images])


def test_the_hash_is_that_of_imagehash() -> None:
    images = smooth(50)
    expected = np.stack([phash_of_imagehash(image) for image in images])
    differing = (bits(perceptual_hashes(stacked(images))) != expected).sum()
    assert differing <= 2, "a frequency at the median may fall on either side"


def test_no_images_have_no_hashes() -> None:
    assert perceptual_hashes(np.zeros((0, 8, 8, 3), np.uint8)).dtype == np.uint64
    assert len(perceptual_hashes(np.zeros((0, 8, 8, 3), np.uint8))) == 0


@pytest.mark.parametrize(("count", "others"), [(700, 900), (3, 0), (0, 3)])
@pytest.mark.parametrize("distance", [0, 4, 24])
def test_near_hashes_are_those_of_scipys_hamming_distance(count: int, others: int, distance: int) -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.integers(0, 2**64, n, dtype=np.uint64) for n in (count, others))
    first[: count // 5] = second[: count // 5] ^ np.uint64(0b101011)[None] if others else first[: count // 5]
    expected = np.zeros(count, bool)
    if count and others:
        expected = (cdist(bits(first), bits(second), "hamming").min(axis=1) * 64).round() <= distance
    np.testing.assert_array_equal(near(first, second, distance), expected)


@pytest.mark.parametrize("distance", [0, 22])
def test_near_pairs_are_those_of_scipys_hamming_distance(distance: int) -> None:
    hashes = np.random.default_rng(1).integers(0, 2**64, 800, dtype=np.uint64)
    hashes[500] = hashes[20]
    close = (cdist(bits(hashes), bits(hashes), "hamming") * 64).round() <= distance
    expected = np.argwhere(np.triu(close, 1))
    assert len(expected)
    np.testing.assert_array_equal(np.concatenate(list(near_pairs(hashes, distance))), expected)


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40)
    return Image.open(file).convert("RGB")


def smaller(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2))


@pytest.mark.realdata
def test_copies_of_photos_are_found_and_other_photos_are_not(real_photos: Path) -> None:
    photos = [Image.open(path).convert("RGB") for path in sorted(real_photos.glob("validation/*/*.webp"))[::2]]

    def hashes(images: list[Image.Image]) -> NDArray[np.uint64]:
        return perceptual_hashes(stacked([ImageOps.fit(image, (64, 64)) for image in images]))

    originals = hashes(photos)
    assert len(np.concatenate(list(near_pairs(originals, DISTANCE)))) == 0
    for copy in (compressed, smaller):
        assert (np.bitwise_count(originals ^ hashes([copy(photo) for photo in photos])) <= DISTANCE).mean() > 0.99
