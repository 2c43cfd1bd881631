"""tools/study/mends.py: its ways to adjust fewer rows, and its intervals."""

from pathlib import Path
from typing import Any

import mends
import pytest
import torch

from compress import distill
from compress.losses import distillation_loss
from compress.losses.distillation import dynamic_temperature

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
    _, mend = list(mends.ARMS.values())[number]
    with mend():
        assert adjusted() == rows
    assert adjusted() == [0, 1, 2, 4]


def test_mixed_targets_are_the_mean_of_the_teachers_row_and_the_adjusted_one() -> None:
    """By hand: the first row is 0.90, 0.08, 0.02 with label 1, which KA swaps with the top class."""
    targets = torch.tensor([[0.49, 0.49, 0.02]])
    student = torch.tensor([[0.2, -0.1, 0.4]])
    expected = (targets * (targets.log() - student.log_softmax(1))).sum()
    options: Any = {"adjust": "probability_shift", "alpha": 1.0, "base": 1.0}
    with mends.mixing():
        found = distillation_loss(student, TEACHER[:1], LABELS[:1], **options)["kd"]
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(distillation_loss(student, TEACHER[:1], LABELS[:1], **options)["kd"], expected)
    with mends.mixing():
        sure = distillation_loss(student, torch.tensor([[200.0, 0.0, 0.0]]), LABELS[:1], **options)["kd"]
    assert sure.isfinite()


def test_t0_moves_in_equal_steps_and_stays_at_the_last() -> None:
    """Rows alike have no weights that differ: their temperature is T_0."""
    rows = TEACHER[:1].expand(2, -1)
    options: Any = {"dynamic": "flsw", "base": 2.0}
    with mends.moving_t0(3.0, 1.0, 5):
        found = [float(distillation_loss(-rows, rows, LABELS[:2], **options)["temperature"][0]) for _ in range(6)]
    assert found == pytest.approx([3.0, 2.5, 2.0, 1.5, 1.0, 1.0])


@pytest.mark.slow
def test_t0_reaches_its_last_value_in_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def noted(*logits: torch.Tensor, base: float, **rest: Any) -> torch.Tensor:
        asked.append(base)
        return dynamic_temperature(*logits, base=base, **rest)

    monkeypatch.setattr(mends, "dynamic_temperature", noted)
    with mends.moving_t0(3.0, 1.0, mends.STEPS):
        recipe = mends.recipe({"method": "dtd-flsw"}, 0.0, 0)
        teacher = recipe.teacher.model_copy(update={"epochs": 4})
        distill(recipe.model_copy(update={"teacher": teacher}), out=tmp_path / "run")
    # A check before the training may take some steps.
    assert (asked[0], asked[-5] > 1.0, asked[-1]) == (3.0, True, 1.0)


def test_intervals_are_those_of_students_t() -> None:
    """By hand: a mean of 0.6 points, a standard deviation of 0.6976, and t = 3.1824 for four seeds."""
    assert mends.interval([0.012, -0.003, 0.004, 0.011]) == "+0.60 (-0.51 to +1.71)"
