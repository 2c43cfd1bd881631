"""Mixed pictures and rows without a label, against a slow reference that takes one sample at a time."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from compress.losses import adjust_targets, decoupled_kd, dist_loss, distillation_loss
from compress.losses.adversarial import Discriminator, adversarial_losses
from compress.losses.labels import Mixed, cross_entropy, share_right
from tests.reference import mixed_reference as reference
from tests.reference.supervision_cases import ADJUST, DYNAMIC, close

N, C = 24, 5
SHARES = [1.0, 0.0, 0.5, 0.7, 0.2, 0.51]


def batch(*, mixed: bool = True, unlabeled: int = 0) -> tuple[Tensor, Tensor, Tensor, Mixed | None, list[Any]]:
    """Student and teacher logits, labels, second labels, and each row's list of labels for the reference."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = 3 * torch.randn(2, N, C, generator=generator, dtype=torch.float64)
    labels, others = torch.randint(C, (2, N), generator=generator)
    others[:2] = labels[:2]
    teacher[2, labels[2]] = teacher[2].max()  # a tie with the label
    share = torch.tensor((SHARES * N)[:N], dtype=torch.float64)
    labels[N - unlabeled :] = others[N - unlabeled :] = -1
    rows = list(zip(labels.tolist(), others.tolist(), share.tolist(), strict=True))
    if not mixed:
        return student, teacher, labels, None, [[(one, 1.0)] if one >= 0 else [] for one, _, _ in rows]
    lists = [[(one, part), (other, 1 - part)] if one >= 0 else [] for one, other, part in rows]
    return student, teacher, labels, Mixed(others, share), lists


CASES = [{"mixed": True}, {"mixed": False, "unlabeled": 7}, {"mixed": True, "unlabeled": 9}]
cases = pytest.mark.parametrize("case", CASES, ids=str)


@cases
@pytest.mark.parametrize("kind", ADJUST)
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_adjusted_targets(case: dict[str, Any], kind: Any, epsilon: float) -> None:
    _, teacher, labels, mixed, lists = batch(**case)
    found = adjust_targets(teacher, labels, kind=kind, temperature=2.0, epsilon=epsilon, mixed=mixed)
    expected = [
        reference.target_of(row, own, kind=kind, temperature=2.0, epsilon=epsilon)
        for row, own in zip(teacher.tolist(), lists, strict=True)
    ]
    close(found, expected)
    assert kind == "none" or (found != F.softmax(teacher / 2, 1)).any(1).sum() > 3


@cases
@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_every_method(case: dict[str, Any], adjust: Any, dynamic: Any, smoothing: float) -> None:
    student, teacher, labels, mixed, lists = batch(**case)
    options = {"adjust": adjust, "epsilon": 0.1, "dynamic": dynamic, "base": 3.0, "alpha": 0.6}
    found = distillation_loss(student, teacher, labels, mixed=mixed, label_smoothing=smoothing, **options)
    expected = reference.distillation_loss(student.tolist(), teacher.tolist(), lists, smoothing=smoothing, **options)
    for name, value in expected.items():
        close(found[name], value)


@cases
@pytest.mark.parametrize("adjust", ADJUST)
def test_dkd_is_that_of_both_labels_by_their_shares(case: dict[str, Any], adjust: Any) -> None:
    student, teacher, labels, mixed, lists = batch(**case)
    options: dict[str, Any] = {"temperature": 3.0, "alpha": 1.5, "beta": 2.0, "adjust": adjust, "epsilon": 0.1}
    found = decoupled_kd(student, teacher, labels, mixed=mixed, **options)
    close(found, reference.decoupled_kd(student.tolist(), teacher.tolist(), lists, **options), rtol=1e-8)


@cases
@pytest.mark.parametrize("adjust", ["probability_shift", "label_smoothing"])
def test_dist_takes_all_rows_and_adjusts_those_with_labels(case: dict[str, Any], adjust: Any) -> None:
    """Against DIST without KA, from a teacher whose probabilities are the adjusted ones."""
    student, teacher, labels, mixed, lists = batch(**case)
    found = dist_loss(student, teacher, labels=labels, adjust=adjust, mixed=mixed)
    targets = [
        reference.target_of(row, own, kind=adjust, temperature=1.0, epsilon=0.1)
        for row, own in zip(teacher.tolist(), lists, strict=True)
    ]
    torch.testing.assert_close(found, dist_loss(student, torch.tensor(targets, dtype=torch.float64).log()))


@cases
def test_adversarial_knows_the_class_of_rows_with_labels_and_the_source_of_all(case: dict[str, Any]) -> None:
    student, teacher, labels, mixed, lists = batch(**case)
    network = Discriminator(C, 8).double()
    found, opponent = adversarial_losses(network, student, teacher, labels, mixed)

    def surprise(logits: Tensor, source: int) -> float:
        scores = network(logits).tolist()
        of_source = [-F.log_softmax(torch.tensor(row[C:], dtype=torch.float64), 0)[source].item() for row in scores]
        of_class = [reference.cross_entropy_of(row[:C], own) for row, own in zip(scores, lists, strict=True) if own]
        return sum(of_source) / len(of_source) + sum(of_class) / len(of_class)

    assert found.item() == pytest.approx(surprise(student, 0))
    assert opponent.item() == pytest.approx(surprise(teacher, 0) + surprise(student, 1))


@pytest.mark.parametrize("adjust", ADJUST)
def test_at_a_share_of_one_nothing_differs(adjust: Any) -> None:
    """In float32, of which the whole loss consists in training."""
    student, teacher, labels, mixed, _ = batch()
    student, teacher = student.float(), teacher.float()
    assert mixed is not None
    whole = Mixed(mixed.labels, torch.ones(N))
    options: dict[str, Any] = {"adjust": adjust, "dynamic": "flsw", "alpha": 0.6, "label_smoothing": 0.1}
    one, other = (distillation_loss(student, teacher, labels, mixed=of, **options) for of in (None, whole))
    assert torch.equal(one["kd"], other["kd"])
    torch.testing.assert_close(one["ce"], other["ce"], rtol=1e-6, atol=0)
    swapped = Mixed(labels, torch.zeros(N))
    other = distillation_loss(student, teacher, mixed.labels, mixed=swapped, **options)
    assert torch.equal(one["kd"], other["kd"])


def test_rows_without_a_label_change_neither_value_nor_gradient_of_what_leaves_them_out() -> None:
    student, _, labels, _, _ = batch(mixed=False, unlabeled=7)
    student.requires_grad_()
    found = cross_entropy(student, labels, label_smoothing=0.1)
    expected = F.cross_entropy(student[:-7], labels[:-7], label_smoothing=0.1)
    (slope,) = torch.autograd.grad(found, student)
    (wanted,) = torch.autograd.grad(expected, student)
    torch.testing.assert_close((found, slope), (expected, wanted))
    assert not slope[-7:].any()


def test_mixed_cross_entropy_is_timms_soft_targets() -> None:
    from timm.data.mixup import mixup_target
    from timm.loss.cross_entropy import SoftTargetCrossEntropy

    student, *_ = batch()
    labels = torch.randint(C, (N,), generator=torch.Generator().manual_seed(1))
    share = torch.rand(N, 1, generator=torch.Generator().manual_seed(2))
    soft = mixup_target(labels, C, share, smoothing=0.1)
    found = cross_entropy(student, labels, mixed=Mixed(labels.flip(0), share[:, 0]), label_smoothing=0.1)
    torch.testing.assert_close(found, SoftTargetCrossEntropy()(student, soft.double()), rtol=1e-6, atol=0)


def test_the_accuracy_counts_the_leading_label_of_rows_with_labels() -> None:
    logits = torch.eye(3)[[0, 1, 2, 0]]
    labels, others = torch.tensor([0, 0, 1, -1]), torch.tensor([1, 1, 2, -1])
    assert share_right(logits, labels, None).item() == pytest.approx(1 / 3)
    share = torch.tensor([0.4, 0.4, 0.5, 0.9])
    assert share_right(logits, labels, Mixed(others, share)).item() == pytest.approx(1 / 3)
