"""Pictures without labels, which the teacher supervises alone.

In: a Dataset and a folder of pictures. Out: the Dataset with those pictures after its own, labelled -1. Copies of
pictures to evaluate on are left out: a student must not see those, not even without their labels.
"""

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.dataset import Dataset, cached, resized
from compress.data.decode import SUFFIXES, Square
from compress.data.near_duplicates import DISTANCE, near, perceptual_hashes
from compress.data.sources import NO_LABEL, Source, Split
from compress.system.errors import InputError
from compress.system.hashes import sha256_json

logger = logging.getLogger(__name__)

_CHUNK = 1024


def with_unlabeled(dataset: Dataset, place: str) -> Dataset:
    """The data set with the pictures of a folder beside those to train on. Its own statistics stay those with labels.

    Args:
        place: of the folder. All pictures in it and below are taken.

    Raises:
        InputError: the folder is missing, a picture is damaged, or all pictures are copies of those to evaluate on.
        MachineError: the cache cannot be written.
    """
    folder = Path(place).expanduser()
    content = cached("unlabeled", folder, Square(dataset.image_size, dataset.interpolation), read_tree)
    pixels: NDArray[np.uint8] = content["train_images"]
    copies = _copies(pixels, dataset)
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


def read_tree(folder: Path) -> Source:
    """All pictures in the folder and below, by their suffixes. Other files and hidden ones are passed over.

    Raises:
        InputError: there is no such folder, or it has no picture.
    """
    found = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )
    if not found:
        raise InputError(f"data.unlabeled: no picture in {folder}", "Any folder of pictures will do, at any depth.")
    return Source([], Split(found, [NO_LABEL] * len(found)), None, "")


def _copies(pixels: NDArray[np.uint8], dataset: Dataset) -> NDArray[np.bool_]:
    """bool [N]: which pictures are copies of one to evaluate on. They are compared as evaluation sees them."""
    cut = Square(dataset.image_size, dataset.interpolation, dataset.crop_pct)
    others = perceptual_hashes(dataset.eval_images)
    parts = (resized(pixels[start : start + _CHUNK], cut) for start in range(0, len(pixels), _CHUNK))
    return np.concatenate([near(perceptual_hashes(part), others, DISTANCE) for part in parts])
