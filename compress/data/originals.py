"""Pictures as the data set holds them, before they become squares.

In: rows of a split. Out: for each the path of its file, or its pixels where the data set has no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.decode import read_rgb
from compress.data.sources import LAYOUTS, every_nth
from compress.recipe import Data

Picture = Path | NDArray[np.uint8]
"""A file, or uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Originals:
    """Where the pictures of a Dataset come from.

    Attributes:
        settings: that name the data set.
        folder: that holds it.
        left_out: paths of pictures that could not be read.
    """

    settings: Data
    folder: Path
    left_out: frozenset[str] = frozenset()

    def evaluation(self, rows: Sequence[int]) -> list[Picture]:
        """The pictures of those rows of the evaluation split. Raises InputError where the data set is damaged."""
        source = LAYOUTS[self.settings.name].read(self.folder, self.settings)
        split = source.train if self.settings.holdout else source.evaluation
        assert split is not None
        places, labels = np.arange(len(split.labels)), np.asarray(split.labels)
        if self.settings.holdout and self.settings.loader == "stream":  # holds a part out before it reads pictures
            places = np.flatnonzero(every_nth(labels, 1 / self.settings.holdout))
        if self.left_out:
            places = np.array([place for place in places.tolist() if split.images[place] not in self.left_out])
        if self.settings.holdout and self.settings.loader != "stream":
            places = places[every_nth(labels[places], 1 / self.settings.holdout)]
        images = [split.images[place] for place in places[list(rows)].tolist()]
        return [Path(image) if isinstance(image, str) else image for image in images]


def stratified(labels: NDArray[np.int64], *, per_class: int, most: int) -> list[int]:
    """The first rows of each class, in order. Where that is more than `most`, every class has as many, or evenly
    chosen classes have one.
    """
    rank = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        of_class = labels == label
        rank[of_class] = np.arange(of_class.sum())
    rows = np.lexsort((labels, rank))  # the first of each class, then the second of each
    classes = len(np.unique(labels))
    if classes > most:
        return sorted(rows[np.arange(most) * classes // most].tolist())
    return sorted(rows[: min(int((rank < per_class).sum()), most // classes * classes)].tolist())


def pixels(picture: Picture) -> NDArray[np.uint8]:
    """uint8 [H, W, 3], upright. Raises InputError where the file cannot be read."""
    return read_rgb(picture) if isinstance(picture, Path) else picture
