"""A paired drop of accuracy and its interval, on which gates and verdicts rest.

In: how many images each of two models got right alone. Out: plain numbers, as fractions. The other statistics lie
apart, since they take a second to import.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri

CONFIDENCE = 0.95


class Range(NamedTuple):
    """A value and the two ends of its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDrop:
    """How two models did on the same n images: `lost` only the reference got right, `won` only the candidate."""

    n: int
    lost: int
    won: int

    @classmethod
    def of(cls, reference: NDArray[np.bool_], candidate: NDArray[np.bool_]) -> "PairedDrop":
        """From which images [N] each got right."""
        return cls(len(reference), int((reference & ~candidate).sum()), int((~reference & candidate).sum()))

    @property
    def value(self) -> float:
        """The accuracy that the candidate loses against the reference; below 0 it gains."""
        return (self.lost - self.won) / self.n

    def range(self, confidence: float = CONFIDENCE) -> Range:
        """The drop with its interval, by `paired_interval`."""
        return Range(self.value, *paired_interval(self.lost, self.won, self.n, confidence))


def paired_interval(lost: float, won: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the drop (lost - won) / n, cut to what a drop can be: -1 to 1.

    By Agresti and Min (2005, "Simple improved confidence intervals for comparing matched proportions"): Wald's, after
    half an image is added to each of the four cells. It does not shrink to a point where no image is discordant, as
    the bootstrap does.

    Args:
        lost: images that only the reference got right. A fraction of an image is allowed.
        won: images that only the candidate got right.
        n: all images.
        confidence: how often the interval holds the true drop.

    Returns:
        Its lower and its upper end.
    """
    padded, plus, minus = n + 2, lost + 0.5, won + 0.5
    centre = (plus - minus) / padded
    spread = max(0.0, plus + minus - (plus - minus) ** 2 / padded) ** 0.5 / padded
    reach = float(ndtri(0.5 + confidence / 2)) * spread
    return max(-1.0, centre - reach), min(1.0, centre + reach)


def exact_interval(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a proportion by Clopper and Pearson (1934), from `successes` of `n`; fractions are allowed."""
    tail = (1 - confidence) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high
