"""Pictures as the data set holds them, before they become squares.

In: rows of a split. Out: for each the path of its file, or its pixels where the data set has no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.decode import read_rgb
from compress.data.sources import LAYOUTS, Split, every_nth

Picture = Path | NDArray[np.uint8]
"""A file, or uint8 [H, W, 3]."""


@dataclass(frozen=True)
class Originals:
    """Where the pictures of a Dataset come from.

    Attributes:
        name: of the layout.
        folder: that holds the data set.
        holdout: the part of the train split that is evaluated on; 0 where the data set has a split for that.
    """

    name: str
    folder: Path
    holdout: float = 0.0

    def evaluation(self, rows: Sequence[int]) -> list[Picture]:
        """The pictures of those rows of the evaluation split. Raises InputError where the data set is damaged."""
        source = LAYOUTS[self.name].read(self.folder)
        if self.holdout:
            return self._of_train(source.train, rows, held=True)
        assert source.evaluation is not None
        return _chosen(source.evaluation, rows)

    def training(self, rows: Sequence[int]) -> list[Picture]:
        """The pictures of those rows of the train split. Raises InputError where the data set is damaged."""
        return self._of_train(LAYOUTS[self.name].read(self.folder).train, rows, held=False)

    def _of_train(self, train: Split, rows: Sequence[int], *, held: bool) -> list[Picture]:
        """Of the part that is held out, or of the rest."""
        if not self.holdout:
            return _chosen(train, rows)
        part = every_nth(np.asarray(train.labels), 1 / self.holdout) == held
        return _chosen(train, np.flatnonzero(part)[rows].tolist())


def _chosen(split: Split, rows: Sequence[int]) -> list[Picture]:
    images = [split.images[row] for row in rows]
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
