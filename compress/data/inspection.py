"""Looks at every picture of a data set before a training does.

In: the pictures of a split, in files or as pixels. Out: what is worth knowing of each one, in about 250 bytes: its
size, colours, EXIF rotation, hashes for the search of copies, and why it cannot be read. Threads share the work, since
Pillow decodes without Python's lock.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.bad_images import raise_if_of_the_machine
from compress.data.decode import Square, opened, pillow_quiet, problem_of, rgb, upright
from compress.data.near_duplicates import perceptual_hashes
from compress.system.errors import InputError

THUMBNAIL = 8  # pixels a side
_EXIF_ORIENTATION = 0x0112
_FLAT = 2  # values of a channel that differ by so little are one colour, after a lossy compression too
_SQUARE = Square(64, "bicubic")
_CHUNK = 64

FACTS = np.dtype(
    [
        ("readable", "?"),
        ("width", "i4"),
        ("height", "i4"),
        ("mode", "U6"),  # Pillow's
        ("turned", "?"),  # by EXIF
        ("frames", "?"),  # more than one
        ("transparent", "?"),
        ("constant", "?"),
        ("content", "u8"),  # hash of the file
        ("look", "u8"),  # perceptual hash
        ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL, 3)),
    ]
)


@dataclass(frozen=True)
class Inspected:
    """What was seen.

    Attributes:
        facts: FACTS [N]. Of a picture that cannot be read, `readable` and `content` alone count.
        problems: why, by the row of each picture that cannot be read.
    """

    facts: NDArray[Any]
    problems: dict[int, str]


def inspect(images: Sequence[str] | NDArray[np.uint8], advanced: Callable[[int], None]) -> Inspected:
    """Looks at pictures, with a thread for each processor.

    Args:
        images: paths, or pixels uint8 [N, H, W, 3].
        advanced: is called with the number of pictures that are done.
    """
    facts = np.zeros(len(images), dtype=FACTS)
    problems: dict[int, str] = {}
    starts = range(0, len(images), _CHUNK)

    def part(start: int) -> dict[int, str]:
        return _inspect_part(images[start : start + _CHUNK], facts[start : start + _CHUNK])

    with pillow_quiet(), ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            for start, found in zip(starts, threads.map(part, starts), strict=True):
                problems |= {start + row: problem for row, problem in found.items()}
                advanced(min(start + _CHUNK, len(images)))
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return Inspected(facts, problems)


def _inspect_part(images: Sequence[str] | NDArray[np.uint8], facts: NDArray[Any]) -> dict[int, str]:
    """Fills the facts. Returns why pictures cannot be read, by row."""
    problems: dict[int, str] = {}
    squares = np.zeros((len(images), _SQUARE.size, _SQUARE.size, 3), np.uint8)
    for row, image in enumerate(images):
        try:
            if isinstance(image, str):
                facts[row]["content"] = _hash_of_file(image)
                with opened(image) as picture:
                    squares[row] = _look(picture, facts[row])
            else:
                facts[row]["content"] = _hash(image.tobytes())
                squares[row] = _look(Image.fromarray(image), facts[row])
            facts[row]["readable"] = True
        except InputError as error:
            problems[row] = problem_of(error, str(image))
    facts["look"] = perceptual_hashes(squares)
    side = _SQUARE.size // THUMBNAIL
    facts["thumbnail"] = squares.reshape(-1, THUMBNAIL, side, THUMBNAIL, side, 3).mean(axis=(2, 4)).round()
    return problems


def _look(image: Image.Image, facts: Any) -> NDArray[np.uint8]:
    """Fills the facts of one picture. Returns it as a small square."""
    facts["width"], facts["height"], facts["mode"] = image.width, image.height, image.mode
    facts["turned"] = image.getexif().get(_EXIF_ORIENTATION, 1) != 1
    facts["frames"] = image.format != "MPO" and getattr(image, "is_animated", False)  # a phone's MPO is one photo
    image.draft(image.mode, (2 * _SQUARE.size, 2 * _SQUARE.size))
    image = upright(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        facts["transparent"] = np.asarray(image.convert("RGBA"))[..., 3].min() < 255
    image = rgb(image)
    facts["constant"] = all(high - low <= _FLAT for low, high in image.getextrema())  # type: ignore[misc]
    return _SQUARE(image)


def _hash_of_file(path: str) -> int:
    """Of its content. Raises InputError where it is no file with content that can be read, else as `opened`."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("is not a regular file")
        if status.st_size == 0:
            raise InputError("is empty")
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))  # type: ignore[arg-type]
            return int.from_bytes(digest.digest())
    except OSError as error:
        raise_if_of_the_machine(error, path)
        raise InputError(f"cannot be opened ({error.strerror})") from None


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())
