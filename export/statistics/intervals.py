"""The paired interval of a drop, on which gates and verdicts rest. Apart from the other statistics, which take a second
to import.
"""

from scipy.special import ndtri

CONFIDENCE = 0.95


def paired_interval(lost: float, won: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of the drop (lost - won) / n, cut to what a drop can be: -1 to 1.

    By Agresti and Min (2005, "Simple improved confidence intervals for comparing matched proportions"): Wald's, after
    half an image is added to each of the four cells. Unlike the bootstrap it does not shrink to a point where no image
    is discordant.
    """
    padded, plus, minus = n + 2, lost + 0.5, won + 0.5
    centre = (plus - minus) / padded
    spread = max(0.0, plus + minus - (plus - minus) ** 2 / padded) ** 0.5 / padded
    reach = float(ndtri(0.5 + confidence / 2)) * spread
    return max(-1.0, centre - reach), min(1.0, centre + reach)
