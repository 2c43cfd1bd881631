"""tools/study/mends.py: its ways to adjust fewer rows, and its intervals."""

import mends
import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from compress.losses import distillation_loss

TEACHER = torch.tensor([[0.90, 0.08, 0.02], [0.90, 0.02, 0.08], [0.45, 0.25, 0.30], [0.45, 0.54, 0.01]]).log()
LABELS = torch.tensor([1, 1, 1, 1])


def adjusted() -> float:
    return float(
        distillation_loss(torch.zeros(4, 3), TEACHER, LABELS, adjust="probability_shift", alpha=1.0)["adjusted"]
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [("`ka-ps`", 3), ("gives the label 0.05", 2), ("gives the label 0.2", 1), ("top class has less than 0.5", 1)],
)
def test_a_mend_adjusts_the_rows_that_it_names(name: str, rows: int) -> None:
    _, chosen = next(arm for other, arm in mends.ARMS.items() if other == name or (name != "`ka-ps`" and name in other))
    with mends.adjusting_where(chosen):
        assert adjusted() == rows / 4
    assert adjusted() == 3 / 4


def test_intervals_are_those_of_a_t_test() -> None:
    differences = [0.012, -0.003, 0.004, 0.011]
    expected = ttest_1samp(differences, 0).confidence_interval(0.95)
    low, high = 100 * np.array(expected)
    assert mends.interval(differences) == f"+0.60 ({low:+.2f} to {high:+.2f})"
