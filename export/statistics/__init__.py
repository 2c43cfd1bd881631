"""Intervals and tests, on which gates and verdicts rest. In: counts, or logits and labels. Out: plain numbers."""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on
from export.statistics.intervals import CONFIDENCE, PairedDrop, Range, exact_interval, paired_interval

if TYPE_CHECKING:
    from export.statistics.comparison import (
        Bin,
        ClassDrop,
        PairedT,
        class_drops,
        ece,
        holm,
        images_to_agree,
        images_to_decide,
        joint_confidence,
        mcnemar,
        nll,
        paired_bootstrap,
        paired_t,
        reliability,
        right,
        wilson,
    )

__all__ = [
    "CONFIDENCE",
    "Bin",
    "ClassDrop",
    "PairedDrop",
    "PairedT",
    "Range",
    "class_drops",
    "ece",
    "exact_interval",
    "holm",
    "images_to_agree",
    "images_to_decide",
    "joint_confidence",
    "mcnemar",
    "nll",
    "paired_bootstrap",
    "paired_interval",
    "paired_t",
    "reliability",
    "right",
    "wilson",
]

_COMPARISON = "export.statistics.comparison"  # takes a second to import
__getattr__ = hand_on(__name__, dict.fromkeys(__all__, _COMPARISON))
