"""Pictures as the data set holds them, before they become squares.

In: rows of a split. Out: for each the path of its file, or its pixels where the data set has no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.data.decode import read_rgb
from compress.data.source import Split
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
        if self.settings.holdout:
            return self._of_train(source.train, rows, held=True)
        assert source.evaluation is not None
        return self._chosen(source.evaluation, np.arange(len(source.evaluation.labels)), rows)

    def training(self, rows: Sequence[int]) -> list[Picture]:
        """The pictures of those rows of the train split. Raises InputError where the data set is damaged."""
        train = LAYOUTS[self.settings.name].read(self.folder, self.settings).train
        return self._of_train(train, rows, held=False)

    def _of_train(self, train: Split, rows: Sequence[int], *, held: bool) -> list[Picture]:
        """Of the part that is held out, or of the rest."""
        places, labels, holdout = np.arange(len(train.labels)), np.asarray(train.labels), self.settings.holdout
        if not holdout:
            return self._chosen(train, places, rows)
        return self._chosen(train, places[every_nth(labels, 1 / holdout) == held], rows)

    def _chosen(self, split: Split, places: NDArray[np.int64], rows: Sequence[int]) -> list[Picture]:
        images = [split.images[place] for place in self._left(split, places)[list(rows)].tolist()]
        return [Path(image) if isinstance(image, str) else image for image in images]

    def _left(self, split: Split, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Without what could not be read."""
        if not self.left_out:
            return places
        return np.array(
            [place for place in places.tolist() if split.images[place] not in self.left_out], dtype=np.int64
        )


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
