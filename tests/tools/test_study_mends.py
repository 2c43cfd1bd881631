"""tools/study/mends.py: its ways to adjust fewer rows, and its intervals."""

from typing import Any

import mends
import pytest
import torch

from compress.losses import distillation_loss

TEACHER = torch.tensor(
    [[0.90, 0.08, 0.02], [0.90, 0.02, 0.08], [0.45, 0.25, 0.30], [0.45, 0.54, 0.01], [0.6, 0.3, 0.1]]
).log()
LABELS = torch.tensor([1, 1, 1, 1, 1])


def adjusted() -> list[int]:
    """The rows that KA changes."""
    return [row for row in range(5) if adjusts(row)]


def adjusts(row: int) -> bool:
    one = slice(row, row + 1)
    options: Any = {"adjust": "probability_shift", "alpha": 1.0}
    return bool(distillation_loss(torch.zeros(1, 3), TEACHER[one], LABELS[one], **options)["adjusted"])


@pytest.mark.parametrize(
    ("number", "rows"),
    [(2, [0, 1, 2, 4]), (3, [0, 2, 4]), (4, [2, 4]), (5, [2])],
)
def test_a_mend_adjusts_the_rows_that_it_names(number: int, rows: list[int]) -> None:
    _, chosen = list(mends.ARMS.values())[number]
    with mends.adjusting_where(chosen):
        assert adjusted() == rows
    assert adjusted() == [0, 1, 2, 4]


def test_intervals_are_those_of_students_t() -> None:
    """By hand: a mean of 0.6 points, a standard deviation of 0.6976, and t = 3.1824 for four seeds."""
    assert mends.interval([0.012, -0.003, 0.004, 0.011]) == "+0.60 (-0.51 to +1.71)"
