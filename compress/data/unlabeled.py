"""Pictures without labels, which the teacher supervises alone.

In: a Dataset and a folder of pictures. Out: the Dataset with those pictures after its own, labelled -1. Copies of
pictures to evaluate on are left out: a student must not see those, not even without their labels.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.dataset import Dataset, cached, resized
from compress.data.decode import SUFFIXES, Square
from compress.data.near_duplicates import DISTANCE, near, perceptual_hashes
from compress.data.sources import NO_LABEL, Source, Split
from compress.system import files
from compress.system.errors import InputError
from compress.system.hashes import sha256_json

logger = logging.getLogger(__name__)

_CHUNK = 1024
_FORMAT = 1  # raise it when other pictures would be copies


def with_unlabeled(dataset: Dataset, place: str) -> Dataset:
    """The data set with the pictures of a folder beside those to train on. Its own statistics stay those with labels.

    Args:
        place: of the folder. All pictures in it and below are taken.

    Raises:
        InputError: the folder is missing, a picture is damaged, or all pictures are copies of those to evaluate on.
        MachineError: the cache cannot be written.
    """
    folder = Path(place).expanduser()
    square = Square(dataset.image_size, dataset.interpolation, dataset.crop_pct)
    content = cached("unlabeled", folder, square, lambda folder: _tree(folder, cropped=square.crop_pct < 1))
    pixels: NDArray[np.uint8] = content["train_images"]
    copies = _kept_copies(content, dataset, square)
    count = int(copies.sum())
    logger.info(
        f"unlabeled: {len(pixels) - count:,} pictures of {folder}; "
        f"{count:,} more are left out, because they are copies of pictures to evaluate on"
    )
    if count == len(pixels):
        raise InputError(
            f"data.unlabeled: all {count:,} pictures of {folder} are copies of pictures to evaluate on",
            "Point it to others.",
        )
    kept = pixels[~copies]
    return replace(
        dataset,
        train_images=np.concatenate([dataset.train_images, kept]),
        train_labels=np.concatenate([dataset.train_labels, np.full(len(kept), NO_LABEL, dtype=np.int64)]),
        unlabeled=len(kept),
        unlabeled_sha256=sha256_json([content["sha256"], np.flatnonzero(copies).tolist()]),
    )


def _tree(folder: Path, *, cropped: bool) -> Source:
    """All pictures in the folder and below, by their suffixes. Other files and hidden ones are passed over.

    cropped: whether evaluation crops pictures. They are then decoded a second time as it sees them, to find copies.
    """
    found = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if not found:
        raise InputError(f"data.unlabeled: no picture in {folder}", "Any folder of pictures will do, at any depth.")
    split = Split(found, [NO_LABEL] * len(found))
    return Source([], split, split if cropped else None, "")


def _kept_copies(content: dict[str, Any], dataset: Dataset, square: Square) -> NDArray[np.bool_]:
    """`_copies`, from the cache where it is known. To hash 100,000 pictures takes a minute."""
    key = sha256_json([_FORMAT, content["sha256"], dataset.sha256, vars(square), DISTANCE])[:16]
    path = files.cache_folder() / "copies" / f"{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        copies = _copies(content, dataset, square)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, copies)
    return copies


def _copies(content: dict[str, Any], dataset: Dataset, square: Square) -> NDArray[np.bool_]:
    """bool [N]: which pictures are copies of one to evaluate on.

    They are compared as evaluation sees them: cropped from the file, or where data.holdout chose the pictures to
    evaluate on, from the square of a picture to train on.
    """
    others = perceptual_hashes(dataset.eval_images)
    pixels: NDArray[np.uint8] = content["train_images"]
    copies = [
        near(perceptual_hashes(resized(pixels[start : start + _CHUNK], square)), others, DISTANCE)
        for start in range(0, len(pixels), _CHUNK)
    ]
    found = np.concatenate(copies)
    return found | near(perceptual_hashes(content["eval_images"]), others, DISTANCE) if square.crop_pct < 1 else found
