"""Statistics of a comparison on one set of images: intervals, paired tests, calibration, and how many images decide.

In: logits [N, C] and labels [N], or counts. Out: plain numbers and Ranges. Accuracies and drops are fractions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from scipy.stats import binomtest, ttest_rel

from export.statistics.intervals import CONFIDENCE, PairedDrop, Range, exact_interval, paired_interval

RESAMPLES = 10_000
ECE_BINS = 15
MOST_IMAGES = 10**9


def wilson(successes: int, n: int, confidence: float = CONFIDENCE) -> Range:
    """A proportion and its Wilson score interval (Wilson 1927), which stays honest at 0 and 1."""
    ends = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Range(successes / n, float(ends.low), float(ends.high))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value of "both models are right equally often" (McNemar 1947): each flip is a coin's.

    1.0 where no image is discordant.
    """
    return float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0


def paired_bootstrap(drop: PairedDrop, confidence: float = CONFIDENCE, *, seed: int = 0) -> Range:
    """The drop and its percentile interval over images drawn with replacement, each with both its answers.

    Only the numbers of lost and won images are drawn. They are multinomial: the same distribution, without a loop.
    """
    same = drop.n - drop.lost - drop.won
    cells = np.array([drop.lost, drop.won, same]) / drop.n
    drawn = np.random.default_rng(seed).multinomial(drop.n, cells, size=RESAMPLES)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / drop.n, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Range(drop.value, float(low), float(high))


def images_to_decide(drop: PairedDrop, limit: float, confidence: float = CONFIDENCE) -> int | None:
    """How many images would place the whole interval of the drop on one side of `limit`, if the rates stay.

    Args:
        drop: what was measured on fewer images.
        limit: the allowed drop, a fraction.
        confidence: of the interval.

    Returns:
        The number of images. None where even 10^9 would not do, as when the drop equals the limit.
    """

    def decided(n: int) -> bool:
        share = n / drop.n
        low, high = paired_interval(drop.lost * share, drop.won * share, n, confidence)
        return high <= limit or low > limit

    return _first(decided, drop.n)


def images_to_agree(agreed: int, n: int, limit: float) -> int | None:
    """How many images would place the whole interval of an agreement on one side of `limit`, if its rate stays.

    Args:
        agreed: images on which two models agreed.
        n: of so many.
        limit: the share of images on which they should agree.

    Returns:
        The number of images. None where even 10^9 would not do, as when the agreement equals the limit.
    """

    def decided(images: int) -> bool:
        low, high = exact_interval(agreed * images / n, images)
        return low >= limit or high < limit

    return _first(decided, n)


@dataclass(frozen=True)
class PairedT:
    """The mean difference over pairs with its interval, and the two-sided p-value of "there is none"."""

    difference: Range
    p: float


def paired_t(reference: Sequence[float], candidate: Sequence[float], confidence: float = CONFIDENCE) -> PairedT | None:
    """Student's paired t-test of candidate - reference. None where it says nothing: fewer than two pairs, or all alike.

    "Alike" is meant up to rounding: accuracies that differ by one image in a billion.
    """
    differences = np.subtract(candidate, reference)
    if len(differences) < 2 or np.ptp(differences) < 1 / MOST_IMAGES:
        return None
    found = ttest_rel(candidate, reference)
    ends = found.confidence_interval(confidence)
    return PairedT(Range(float(differences.mean()), float(ends.low), float(ends.high)), float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected so that all of them together are wrong as rarely as one alone (Holm 1979), in their order."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(np.argsort(p_values).tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


def _first(decided: Callable[[int], bool], start: int) -> int | None:
    """The smallest n >= start at which a condition holds that goes on holding; by doubling, then halving."""
    low, high = start - 1, start
    while not decided(high):
        low, high = high, high * 2
        if low > MOST_IMAGES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def right(logits: NDArray[np.floating], labels: NDArray[np.int64], k: int = 1) -> NDArray[np.bool_]:
    """Which images [N] have their label among the k largest logits [N, C]; a tie goes to the lower class, as argmax."""
    own = logits[np.arange(len(labels)), labels][:, None]
    ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
    return ahead.sum(1) < k


def nll(logits: NDArray[np.floating], labels: NDArray[np.int64], *, seed: int = 0) -> Range:
    """Mean negative log-likelihood of the labels in nats, and its bootstrap interval over images."""
    losses = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    generator = np.random.default_rng(seed)
    means = [float(generator.choice(losses, len(losses)).mean()) for _ in range(1000)]
    low, high = np.quantile(means, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Range(float(losses.mean()), float(low), float(high))


@dataclass(frozen=True)
class Bin:
    """The images whose confidence falls in one of the equal parts of 0..1."""

    images: int
    confidence: float
    accuracy: float


def reliability(logits: NDArray[np.floating], labels: NDArray[np.int64], bins: int = ECE_BINS) -> list[Bin]:
    """The bins that hold images, lowest confidence first; a confidence of 1 belongs to the last bin."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, correct = probabilities.max(1), right(logits, labels)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(correct[inside].mean()))
        for inside in (place == number for number in range(bins))
        if inside.any()
    ]


def ece(bins: list[Bin]) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3): mean |accuracy - confidence|, weighted by images."""
    return sum(entry.images * abs(entry.accuracy - entry.confidence) for entry in bins) / sum(b.images for b in bins)


@dataclass(frozen=True)
class ClassDrop:
    """What one class loses. The intervals hold for all classes together (Bonferroni): the worst may be judged."""

    label: int
    drop: PairedDrop
    reference_top1: float
    candidate_top1: float
    low: float
    high: float


def class_drops(
    reference: NDArray[np.bool_], candidate: NDArray[np.bool_], labels: NDArray[np.int64]
) -> list[ClassDrop]:
    """What each class loses.

    Args:
        reference: which images [N] the reference got right.
        candidate: the same of the candidate.
        labels: class of each image, [N].

    Returns:
        The classes that have images, those that lose most first.
    """
    present = np.unique(labels)
    rows = []
    for label in present.tolist():
        mine = labels == label
        drop = PairedDrop.of(reference[mine], candidate[mine])
        _, low, high = drop.range(joint_confidence(len(present)))
        rows.append(ClassDrop(label, drop, float(reference[mine].mean()), float(candidate[mine].mean()), low, high))
    return sorted(rows, key=lambda row: (-row.drop.value, row.label))


def joint_confidence(count: int) -> float:
    """The confidence of each of `count` intervals that makes all of them hold together (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / count
