"""What is wrong with splits though each picture is whole: said once, when the data is read.

In: a Source, or pixels with labels. Out: a sentence for each finding.
"""

import contextlib
import filecmp
import hashlib
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from compress.data.decode import opened, pillow_quiet
from compress.data.picture_files import PictureFiles
from compress.data.preprocessing import Fit
from compress.data.source import Source
from compress.system import platform
from compress.system.errors import InputError

_CHUNK = 64
_END_BYTES = 4096
_LOOKED_AT = 300
_LOOKED_AT_IN_A_CLASS = 32
_OFTEN = 0.1


def overlap(source: Source) -> list[str]:
    """Pictures to evaluate on whose files have the content of a picture to train on.

    Files of different sizes differ, so that only those are read whose size is in both splits.
    """
    if source.evaluation is None or not (isinstance(source.train.images, list)):
        return []
    assert isinstance(source.evaluation.images, list)
    train, judged = (_by_size(split.images) for split in (source.train, source.evaluation))
    both = train.keys() & judged.keys()
    learned = {_ends(path): path for size in both for path in train[size]}
    candidates = [(path, learned.get(_ends(path))) for size in both for path in judged[size]]
    twins = [(path, twin) for path, twin in candidates if twin is not None and filecmp.cmp(path, twin, shallow=False)]
    if not twins:
        return []
    (path, twin), whole = min(twins), len(source.evaluation.images)
    return [
        f"{len(twins):,} of {whole:,} pictures to evaluate on are also in train ({path} is {twin}): "
        "accuracies are of pictures that were trained on"
    ]


def cut_away(source: Source, fit: Fit) -> list[str]:
    """Pictures of which a square shows less than half, where a good part of those that are looked at is such.

    Only their headers are read.
    """
    images = source.train.images
    if fit != "crop" or not isinstance(images, list):
        return []
    sizes = sizes_of_some(images)
    narrow = sum(2 * min(size) < max(size) for size in sizes)
    if not sizes or narrow < _OFTEN * len(sizes):
        return []
    return [
        f"{narrow / len(sizes):.0%} of the pictures are more than twice as long as wide, and the square in their "
        "centre shows less than half: data.fit: pad shows them whole, stretch squeezes them"
    ]


def sizes_of_some(paths: list[str]) -> list[tuple[int, int]]:
    """Width and height of some pictures, evenly over all. Those that cannot be opened are passed over."""
    sizes = []
    with pillow_quiet():
        for path in paths[:: max(1, len(paths) // _LOOKED_AT)]:
            with contextlib.suppress(InputError), opened(path) as picture:
                sizes.append(picture.size)
    return sizes


def constant_classes(
    images: NDArray[np.uint8] | PictureFiles, labels: NDArray[np.int64], class_names: list[str], what: str = "picture"
) -> list[str]:
    """Classes whose pictures all are of one colour each, as decoding leaves them where it loses what is in them.

    Of pictures in files at most 32 of a class are looked at, and only until one of them is of several colours.

    Args:
        images: uint8 [N, H, W, 3], or in files.
        labels: int64 [N].
        what: the pictures are, for people.
    """
    if not len(labels):
        return []
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    rows = np.split(order, starts[1:])
    if isinstance(images, PictureFiles):
        with pillow_quiet(), ThreadPoolExecutor(platform.usable_cpus()) as threads:
            constant = list(threads.map(lambda own: _some_constant(images, own), rows))
    else:
        constant = [_all_constant(images, own) for own in rows]
    found = [class_names[label] for label, empty in zip(classes, constant, strict=True) if empty]
    if not found:
        return []
    more = f" ({len(found):,} such classes)" if len(found) > 1 else ""
    return [f"every {what} of class {found[0]!r} is of one colour{more}: all its pixels have equal values"]


def held_out_whole(labels: NDArray[np.int64], held: NDArray[np.bool_], class_names: list[str]) -> list[str]:
    """Classes of which no picture is left to train on.

    Args:
        labels: int64 [N], before a part is held out.
        held: bool [N].
    """
    lost = sorted(set(labels[held].tolist()) - set(labels[~held].tolist()))
    if not lost:
        return []
    more = f" ({len(lost):,} such classes)" if len(lost) > 1 else ""
    return [f"data.holdout leaves no picture of class {class_names[lost[0]]!r} to train on{more}"]


def not_judged(labels: NDArray[np.int64], class_names: list[str]) -> list[str]:
    """Classes without a picture to evaluate on. labels: int64 [M], of the evaluation split."""
    missing = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if not missing:
        return []
    return [f"class {class_names[missing[0]]!r} has no image to evaluate on ({len(missing)} such classes)"]


def _all_constant(images: NDArray[np.uint8], rows: NDArray[np.int64]) -> bool:
    for start in range(0, len(rows), _CHUNK):
        part = images[rows[start : start + _CHUNK]]
        if (part != part[:, :1, :1]).any():
            return False
    return True


def _some_constant(pictures: PictureFiles, rows: NDArray[np.int64]) -> bool:
    """The same of some, evenly over all. Those that cannot be read are passed over."""
    seen = 0
    for row in rows[:: -(-len(rows) // _LOOKED_AT_IN_A_CLASS)].tolist():
        with contextlib.suppress(InputError):
            picture, seen = pictures[row], seen + 1
            if (picture != picture[:1, :1]).any():
                return False
    return seen > 0


def _by_size(paths: Iterable[str]) -> dict[int, list[str]]:
    """The files that can be read and are not empty. Whoever decodes the others names them."""
    found: dict[int, list[str]] = {}
    for path in paths:
        if os.access(path, os.R_OK) and (size := os.stat(path).st_size):
            found.setdefault(size, []).append(path)
    return found


def _ends(path: str) -> bytes:
    """The first and the last bytes, which tell nearly all pictures apart. To read all of them would take long."""
    with open(path, "rb") as file:
        start = file.read(_END_BYTES)
        file.seek(max(0, os.path.getsize(path) - _END_BYTES))
        return hashlib.blake2b(start + file.read()).digest()
