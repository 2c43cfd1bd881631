"""The original pictures of a test double of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PixelOriginals:
    """Pictures that have no files: uint8 [N, H, W, 3]."""

    images: np.ndarray

    def evaluation(self, rows: Sequence[int]) -> list[np.ndarray]:
        return [self.images[row] for row in rows]
