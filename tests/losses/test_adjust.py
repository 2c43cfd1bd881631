"""adjust_targets against a slow per-sample reference."""

import pytest
import torch
import torch.nn.functional as F

from compress.losses import adjust_targets
from tests.reference import supervision_reference as reference
from tests.reference.supervision_cases import ADJUST, BATCHES, batches, close, tensors


@batches
@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.5])
def test_adjusted_targets_match_the_reference(batch, kind, temperature):
    _, teacher, labels = tensors(batch)
    actual = adjust_targets(teacher, labels, kind=kind, temperature=temperature, epsilon=0.2)
    close(actual, reference.adjust_targets(*batch[1:], kind=kind, temperature=temperature, epsilon=0.2))


@batches
@pytest.mark.parametrize("kind", ADJUST)
def test_adjusted_targets_take_a_temperature_per_sample(batch, kind):
    _, teacher, labels = tensors(batch)
    temperature = [1.0 + 1.5 * sample for sample in range(len(labels))]
    actual = adjust_targets(teacher, labels, kind=kind, temperature=torch.tensor(temperature, dtype=torch.float64))
    close(actual, reference.adjust_targets(*batch[1:], kind=kind, temperature=temperature))


@batches
@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_adjusted_targets_are_distributions(batch, kind, dtype):
    _, teacher, labels = tensors(batch, dtype)
    target = adjust_targets(teacher, labels, kind=kind, temperature=2.0)
    assert target.shape == teacher.shape
    assert (target >= 0).all()
    torch.testing.assert_close(target.sum(1), torch.ones(len(labels), dtype=dtype), rtol=0, atol=1e-6)


@batches
def test_probability_shift_makes_the_label_the_top_class_and_only_swaps(batch):
    _, teacher, labels = tensors(batch)
    before = adjust_targets(teacher, labels, kind="none", temperature=3.0)
    after = adjust_targets(teacher, labels, kind="probability_shift", temperature=3.0)
    assert torch.equal(after.gather(1, labels[:, None])[:, 0], after.amax(1))
    assert torch.equal(after.sort(1).values, before.sort(1).values)
    assert ((after != before).sum(1) <= 2).all()


def test_probability_shift_of_a_known_row():
    teacher = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]], dtype=torch.float64).log()
    actual = adjust_targets(teacher, torch.tensor([2, 0]), kind="probability_shift")
    close(actual, [[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])


def test_label_smoothing_of_a_known_row():
    teacher = torch.tensor([[0.5, 0.3, 0.2, 0.0], [9.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    actual = adjust_targets(teacher, torch.tensor([1, 2]), kind="label_smoothing")
    close(actual, [[0.025, 0.925, 0.025, 0.025], [0.025, 0.025, 0.925, 0.025]])


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
def test_label_smoothing_spreads_epsilon_over_all_classes(epsilon):
    _, teacher, labels = tensors(BATCHES["all_wrong"])
    actual = adjust_targets(teacher, labels, kind="label_smoothing", temperature=4.0, epsilon=epsilon)
    close(actual, reference.adjust_targets(*BATCHES["all_wrong"][1:], kind="label_smoothing", epsilon=epsilon))


@pytest.mark.parametrize("kind", ADJUST)
def test_a_label_that_ties_with_the_top_class_is_right(kind):
    teacher, labels = torch.tensor([[2.0, 2.0, 0.0], [1.0, 1.0, 1.0]], dtype=torch.float64), torch.tensor([1, 2])
    close(adjust_targets(teacher, labels, kind=kind, temperature=2.0), F.softmax(teacher / 2.0, 1).tolist())


def test_the_first_of_tied_top_classes_is_swapped():
    teacher = torch.tensor([[0.1, 0.4, 0.1, 0.4]], dtype=torch.float64).log()
    close(adjust_targets(teacher, torch.tensor([0]), kind="probability_shift"), [[0.4, 0.1, 0.1, 0.4]])


@batches
def test_right_rows_keep_the_teacher_s_soft_target_bit_for_bit(batch):
    _, teacher, labels = tensors(batch)
    right = torch.tensor(
        [not reference.is_wrong(reference.clamp(row), label) for row, label in zip(*batch[1:], strict=True)]
    )
    plain = adjust_targets(teacher, labels, kind="none", temperature=4.0)
    for kind in ["probability_shift", "label_smoothing"]:
        assert torch.equal(adjust_targets(teacher, labels, kind=kind, temperature=4.0)[right], plain[right])
