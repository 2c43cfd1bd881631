"""Pictures without labels, which the teacher supervises alone.

In: a Dataset and a folder of pictures. Out: the Dataset with those pictures after its own, labelled -1. Copies of
pictures to evaluate on are left out: a student must not see those, not even without their labels.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.cache import Wanted, cached
from compress.data.dataset import Dataset
from compress.data.near_duplicates import DISTANCE, near, perceptual_hashes
from compress.data.picture_files import PictureFiles
from compress.data.source import NO_LABEL, Source, Split
from compress.data.walk import LeftOut, pictures_below
from compress.system import files
from compress.system.errors import InputError
from compress.system.hashes import sha256_json
from compress.system.paths import user_path

logger = logging.getLogger(__name__)

_CHUNK = 1024
_FORMAT = 2  # raise it when other pictures would be copies


def with_unlabeled(dataset: Dataset, place: str, *, skip: bool = False) -> Dataset:
    """The data set with the pictures of a folder beside those to train on. Its own statistics stay those with labels.

    Args:
        place: of the folder. All pictures in it and below are taken. What else lies there is a warning of the data set.
        skip: whether pictures that cannot be read are left out, if they are at most one in a hundred of the folder.

    Raises:
        InputError: for one of these reasons:

            - The folder is missing, or holds no picture.
            - Pictures cannot be read, and are not to be left out, or are too many for that.
            - All pictures are copies of those to evaluate on.
        MachineError: the cache cannot be written.
    """
    folder = Path(user_path(place))
    wanted = Wanted(
        name="unlabeled",
        folder=folder,
        square=dataset.square,
        streamed=dataset.streamed,
        variant="",
        read=lambda folder: _tree(folder, cropped=dataset.square.crop_pct < 1 and not dataset.streamed),
        skip=skip,
        checked=False,
    )
    content = cached(wanted)
    pictures: NDArray[np.uint8] | PictureFiles = content["train_images"]
    copies = _kept_copies(content, dataset)
    count = int(copies.sum())
    logger.info(
        f"unlabeled: {len(pictures) - count:,} pictures of {folder}; "
        f"{count:,} more are left out, because they are copies of pictures to evaluate on"
    )
    if count == len(pictures):
        raise InputError(
            f"data.unlabeled: all {count:,} pictures of {folder} are copies of pictures to evaluate on",
            "Point it to others.",
        )
    rows = np.flatnonzero(~copies)
    return replace(
        dataset,
        train_images=_joined(dataset.train_images, pictures, rows),
        train_labels=np.concatenate([dataset.train_labels, np.full(len(rows), NO_LABEL, dtype=np.int64)]),
        unlabeled=len(rows),
        warnings=(*dataset.warnings, *(f"data.unlabeled: {warning}" for warning in content["warnings"])),
        left_out={**dataset.left_out, **content["left_out"]},
        unlabeled_sha256=sha256_json([content["sha256"], np.flatnonzero(copies).tolist()]),
    )


def _joined(
    own: NDArray[np.uint8] | PictureFiles, others: NDArray[np.uint8] | PictureFiles, rows: NDArray[np.int64]
) -> NDArray[np.uint8] | PictureFiles:
    """The pictures with those rows of the others after them."""
    if isinstance(own, PictureFiles):
        assert isinstance(others, PictureFiles)
        return own.followed_by(others, rows)
    return np.concatenate([own, others[rows]])


def _tree(folder: Path, *, cropped: bool) -> Source:
    """All pictures in the folder and below.

    cropped: whether evaluation crops pictures. They are then decoded a second time as it sees them, to find copies.
    """
    left_out = LeftOut()
    found = pictures_below(str(folder), left_out)
    others = [str(left_out)] if left_out.counts else []
    if not found:
        what = "; ".join([f"no picture in {folder}", *others])
        raise InputError(f"data.unlabeled: {what}", "Any folder of pictures will do, at any depth.")
    split = Split(found, [NO_LABEL] * len(found))
    return Source([], split, split if cropped else None, "", tuple(others))


def _kept_copies(content: dict[str, Any], dataset: Dataset) -> NDArray[np.bool_]:
    """`_copies`, from the cache where it is known. To hash 100,000 pictures takes a minute."""
    key = sha256_json([_FORMAT, content["sha256"], dataset.sha256, dataset.square.key, DISTANCE])[:16]
    path = files.cache_folder() / "copies" / f"{key}.npy"
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        copies = _copies(content, dataset)
    with files.replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, copies)
    return copies


def _copies(content: dict[str, Any], dataset: Dataset) -> NDArray[np.bool_]:
    """bool [N]: which pictures are copies of one to evaluate on.

    They are compared as evaluation sees them, cropped from the file.
    """
    others, cropped = perceptual_hashes(dataset.eval_images), dataset.square.crop_pct < 1
    seen: NDArray[np.uint8] | PictureFiles = content["train_images"]
    if isinstance(seen, PictureFiles):
        seen = replace(seen, square=dataset.square)
    elif cropped:
        seen = content["eval_images"]
    chunks = range(0, len(seen), _CHUNK)
    return np.concatenate([near(perceptual_hashes(seen[at : at + _CHUNK]), others, DISTANCE) for at in chunks])
