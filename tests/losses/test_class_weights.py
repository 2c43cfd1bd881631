"""Weights of classes: scikit-learn's, on the cross-entropy with labels alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from compress.losses.distillation import distillation_loss
from compress.losses.labels import balanced_weights, cross_entropy
from compress.losses.objective import Objective
from compress.recipe import Supervision

LABELS = torch.tensor([0] * 90 + [1] * 7 + [2] * 23)


def batch(rows: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(rows, 3, generator=generator, dtype=torch.float64) * 3 for _ in range(2))
    return student, teacher, torch.arange(rows) % 3


def test_the_weights_are_those_of_scikit_learn() -> None:
    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS.numpy())
    np.testing.assert_allclose(balanced_weights(LABELS, 3).numpy(), expected, rtol=1e-6)


def test_a_class_without_an_image_changes_no_other() -> None:
    labels = LABELS.where(LABELS < 1, LABELS + 1)  # classes 0, 2 and 3 of 5
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=labels.numpy())
    np.testing.assert_allclose(balanced_weights(labels, 5).numpy(), [expected[0], 0, *expected[1:], 0], rtol=1e-6)


def test_images_weigh_1_on_average() -> None:
    assert balanced_weights(LABELS, 3)[LABELS].mean().item() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_mean_over_images_of_their_weighted_losses(smoothing: float) -> None:
    student, _, labels = batch()
    weights = torch.tensor([0.5, 3.0, 1.0])
    each = F.cross_entropy(student, labels, reduction="none", label_smoothing=smoothing).numpy()
    expected = (compute_sample_weight({0: 0.5, 1: 3.0, 2: 1.0}, labels.numpy()) * each).sum() / len(labels)
    actual = cross_entropy(student, labels, label_smoothing=smoothing, class_weights=weights)
    assert actual.item() == pytest.approx(expected)


def test_the_mean_over_parts_of_a_batch_is_that_of_the_batch() -> None:
    student, _, labels = batch()
    weights = balanced_weights(LABELS, 3)
    halves = [cross_entropy(student[rows], labels[rows], class_weights=weights) for rows in torch.arange(12).split(6)]
    torch.testing.assert_close(torch.stack(halves).mean(), cross_entropy(student, labels, class_weights=weights))


@pytest.mark.parametrize("dynamic", ["constant", "flsw"])
@pytest.mark.parametrize("adjust", ["none", "probability_shift"])
def test_beside_kd_they_act_on_the_labels_loss_alone(adjust: str, dynamic: str) -> None:
    weights = balanced_weights(LABELS, 3)
    options = {"adjust": adjust, "dynamic": dynamic, "alpha": 0.4}
    plain = distillation_loss(*batch(), **options)  # type: ignore[arg-type]
    weighted = distillation_loss(*batch(), **options, class_weights=weights)  # type: ignore[arg-type]
    for name in ("kd", "temperature", "adjusted"):
        assert torch.equal(weighted[name], plain[name])  # type: ignore[literal-required]
    ce = cross_entropy(batch()[0], batch()[2], class_weights=weights)
    torch.testing.assert_close(weighted["loss"], 0.4 * plain["kd"] + 0.6 * ce)
    assert not torch.isclose(weighted["ce"], plain["ce"])


@pytest.mark.parametrize("method", ["ce", "kd", "ka+dtd"])
def test_an_objective_hands_them_on(method: str) -> None:
    student, teacher, labels = batch()
    weights = balanced_weights(LABELS, 3)
    supervision = Supervision.model_validate({"method": method})
    objective = Objective.of(supervision, label_smoothing=0.0, class_weights=weights)
    found = objective(student, None if method == "ce" else teacher, labels)
    torch.testing.assert_close(found["ce"], cross_entropy(student, labels, class_weights=weights))


def test_a_class_of_one_image_has_its_weight() -> None:
    labels = torch.tensor([0, 0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(balanced_weights(labels, 3).double(), torch.from_numpy(expected), rtol=1e-6, atol=0)
