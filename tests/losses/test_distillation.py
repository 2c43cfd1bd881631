"""distillation_loss and its gradient against a slow reference, torch's own kl_div, and finite differences."""

import dataclasses
import inspect

import pytest
import torch
import torch.nn.functional as F

from compress.losses.distillation import DistillationSettings, distillation_loss, dynamic_temperature
from tests.reference import supervision_reference as reference
from tests.reference.supervision_cases import (
    ADJUST,
    BATCHES,
    DYNAMIC,
    NORMALIZE,
    PARTS,
    SCALE,
    batches,
    close,
    gradient_of,
    random_batch,
    tensors,
    unclamped,
)


@batches
@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("scale", SCALE)
def test_every_part_of_the_loss_matches_the_reference(batch, adjust, dynamic, scale):
    options = {"adjust": adjust, "dynamic": dynamic, "scale": scale, "alpha": 0.7, "epsilon": 0.2, "beta": 5.0}
    actual = distillation_loss(*tensors(batch), **options)
    expected = reference.distillation_loss(*batch, **options)
    assert actual.keys() == expected.keys()
    close(actual["temperature"], expected["temperature"])
    for part in PARTS:
        assert torch.as_tensor(actual[part]).shape == (), part
        assert float(actual[part]) == pytest.approx(expected[part], rel=1e-8, abs=1e-10), part


@batches
@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_float32_matches_the_float64_reference(batch, adjust, dynamic):
    student, teacher, labels = tensors(batch, torch.float32)
    options = {"adjust": adjust, "dynamic": dynamic, "beta": 5.0, "normalize": "mean"}
    actual = distillation_loss(student, teacher, labels, **options)
    expected = reference.distillation_loss(student.tolist(), teacher.tolist(), batch[2], **options)
    for part in PARTS:
        assert float(actual[part]) == pytest.approx(expected[part], rel=2e-3, abs=2e-5), part
    torch.testing.assert_close(actual["temperature"], torch.tensor(expected["temperature"]), rtol=1e-3, atol=0)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_options_left_out_have_the_documented_defaults(dynamic, normalize):
    batch = random_batch(16, 5, seed=8)
    for function, extra in [(distillation_loss, {}), (distillation_loss, {"adjust": "label_smoothing"})]:
        actual = function(*tensors(batch), dynamic=dynamic, normalize=normalize, **extra)
        expected = reference.distillation_loss(*batch, dynamic=dynamic, normalize=normalize, **extra)
        assert float(actual["loss"]) == pytest.approx(expected["loss"], rel=1e-9)
    assert float(distillation_loss(*tensors(batch))["loss"]) == pytest.approx(
        reference.distillation_loss(*batch)["loss"], rel=1e-9
    )
    close(
        dynamic_temperature(*tensors(batch)[:2], kind="flsw", base=4.0),
        reference.dynamic_temperature(*batch[:2], kind="flsw", base=4.0),
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.5, 20.0])
def test_plain_kd_is_torch_s_own_kl_div_and_cross_entropy(temperature, alpha):
    student, teacher, labels = tensors(random_batch(9, 7, seed=9))
    student.requires_grad_()
    log_student = F.log_softmax(student / temperature, 1)
    kd = temperature**2 * F.kl_div(log_student, F.softmax(teacher / temperature, 1), reduction="batchmean")
    loss = alpha * kd + (1 - alpha) * F.cross_entropy(student, labels)
    (expected,) = torch.autograd.grad(loss, student)
    actual, result = gradient_of(student.detach(), teacher, labels, base=temperature, alpha=alpha)
    torch.testing.assert_close(result["kd"], kd, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result["loss"], loss, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("scale", SCALE)
@pytest.mark.parametrize("adjust", ADJUST)
def test_dtd_is_torch_s_own_kl_div_sample_by_sample(adjust, scale):
    batch = random_batch(6, 6, seed=10)
    student, teacher, labels = tensors(batch)
    t = torch.tensor(reference.dynamic_temperature(*batch[:2], kind="flsw", base=4.0), dtype=torch.float64)[:, None]
    assert (t > 1).any(), "a batch in which everything sits on the floor shows nothing"
    assert t.unique().numel() > 1
    target = torch.tensor(
        reference.adjust_targets(*batch[1:], kind=adjust, temperature=t[:, 0].tolist()), dtype=torch.float64
    )
    kl = F.kl_div(F.log_softmax(student / t, 1), target, reduction="none").sum(1)
    expected = ((t[:, 0] if scale == "sample" else 4.0) ** 2 * kl).mean()
    actual = distillation_loss(student, teacher, labels, adjust=adjust, dynamic="flsw", scale=scale)["kd"]
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)


def test_scale_base_weighs_every_sample_by_the_base_temperature():
    batch = random_batch(6, 4, seed=11)
    sample, base = (
        distillation_loss(*tensors(batch), dynamic="flsw", base=3.0, beta=6.0, scale=scale) for scale in SCALE
    )
    assert torch.equal(sample["temperature"], base["temperature"])
    kl = [
        reference.distillation_loss([s], [t], [y], base=float(tx), scale="sample")["kd"] / float(tx) ** 2
        for s, t, y, tx in zip(*batch, base["temperature"], strict=True)
    ]
    assert float(base["kd"]) == pytest.approx(9.0 * sum(kl) / 6)
    assert abs(float(sample["kd"]) / float(base["kd"]) - 1) > 0.01
    constant = [float(distillation_loss(*tensors(batch), base=3.0, scale=scale)["kd"]) for scale in SCALE]
    assert constant[0] == pytest.approx(constant[1], rel=1e-14)


def test_adjusted_is_the_fraction_of_rows_that_were_changed():
    batch = (*BATCHES["wrong_by_a_hair"][:2], [0, 1, 1])
    for adjust, expected in [("none", 0.0), ("probability_shift", 2 / 3), ("label_smoothing", 2 / 3)]:
        assert float(distillation_loss(*tensors(batch), adjust=adjust)["adjusted"]) == pytest.approx(expected)
    for name, expected in [("all_wrong", 1.0), ("all_right", 0.0)]:
        assert float(distillation_loss(*tensors(BATCHES[name]), adjust="probability_shift")["adjusted"]) == expected


@pytest.mark.parametrize("dynamic", ["constant", "flsw"])
def test_label_smoothing_acts_on_the_cross_entropy_alone(dynamic):
    batch = tensors(random_batch(6, 4, seed=20))
    plain, smooth = (
        distillation_loss(*batch, adjust="probability_shift", dynamic=dynamic, alpha=0.4, label_smoothing=eps)
        for eps in (0.0, 0.1)
    )
    torch.testing.assert_close(smooth["ce"], F.cross_entropy(batch[0], batch[2], label_smoothing=0.1))
    torch.testing.assert_close(smooth["loss"], 0.4 * plain["kd"] + 0.6 * smooth["ce"])
    assert torch.equal(smooth["kd"], plain["kd"])
    assert torch.equal(smooth["temperature"], plain["temperature"])


@pytest.mark.parametrize("batch", unclamped.values(), ids=unclamped.keys())
@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("scale", SCALE)
def test_the_gradient_has_its_closed_form(batch, adjust, dynamic, scale):
    options = {"adjust": adjust, "scale": scale, "alpha": 0.7}
    actual, result = gradient_of(*tensors(batch), dynamic=dynamic, beta=5.0, **options)
    t = reference.dynamic_temperature(*batch[:2], kind=dynamic, base=4.0, beta=5.0)
    close(actual, reference.distillation_gradient(*batch, temperature=t, **options), rtol=1e-8, atol=1e-10)
    assert result["temperature"].tolist() == pytest.approx(t)


@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("scale", SCALE)
def test_the_gradient_is_the_reference_s_slope_with_the_temperature_held(adjust, dynamic, scale):
    student, teacher, labels = batch = random_batch(4, 4, seed=12)
    options = {"adjust": adjust, "dynamic": dynamic, "scale": scale, "alpha": 0.6, "beta": 5.0}
    held = reference.distillation_loss(*batch, **options)["temperature"]
    step, slope = 1e-5, []
    for sample, row in enumerate(student):
        slope.append([])
        for c in range(len(row)):
            ends = []
            for sign in (1, -1):
                moved = [list(r) for r in student]
                moved[sample][c] += sign * step
                ends.append(reference.distillation_loss(moved, teacher, labels, temperature=held, **options)["loss"])
            slope[-1].append((ends[0] - ends[1]) / (2 * step))
    actual, _ = gradient_of(*tensors(batch), **options)
    close(actual, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradcheck_with_a_constant_temperature(adjust, alpha):
    student, teacher, labels = tensors(random_batch(4, 5, seed=13))
    assert torch.autograd.gradcheck(
        lambda z: distillation_loss(z, teacher, labels, adjust=adjust, alpha=alpha)["loss"], student.requires_grad_()
    )


def test_the_settings_of_a_method_are_arguments_of_the_loss_with_its_defaults() -> None:
    parameters = inspect.signature(distillation_loss).parameters
    for setting in dataclasses.fields(DistillationSettings):
        assert parameters[setting.name].default == setting.default, setting.name
    others = {"student_logits", "teacher_logits", "labels", "label_smoothing", "mixed", "class_weights", "group"}
    assert parameters.keys() - others == {setting.name for setting in dataclasses.fields(DistillationSettings)}
