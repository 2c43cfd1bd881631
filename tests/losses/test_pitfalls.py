"""What goes wrong elsewhere: losses at a match, logits of any size, dtypes, shapes, host syncs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.losses import adjust_targets
from compress.losses.distillation import distillation_loss, dynamic_temperature
from tests.helpers.operations import CountOperations
from tests.reference import supervision_reference as reference
from tests.reference.supervision_cases import (
    ADJUST,
    BATCHES,
    DYNAMIC,
    F32_MAX,
    NORMALIZE,
    PARTS,
    SCALE,
    close,
    gradient_of,
    random_batch,
    rounding,
    tensors,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("scale", SCALE)
def test_a_perfect_match_has_no_loss_and_no_gradient(dynamic, scale, dtype):
    for name, (_, teacher, labels) in BATCHES.items():
        _, teacher, labels = tensors((teacher, teacher, labels), dtype)
        gradient, result = gradient_of(teacher, teacher, labels, dynamic=dynamic, scale=scale, alpha=1.0)
        assert abs(result["kd"]) <= rounding(result["temperature"]), name
        assert gradient.abs().amax() <= rounding(result["temperature"]), name


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_a_student_that_equals_the_shifted_teacher_has_no_loss_and_no_gradient(dynamic):
    for name in ["random", "all_wrong", "two_classes", "huge"]:
        _, teacher, labels = BATCHES[name]
        student = [list(row) for row in teacher]
        for row, label in zip(student, labels, strict=True):
            top = row.index(max(row))
            if row[label] < row[top]:
                row[label], row[top] = row[top], row[label]
        batch = tensors((student, teacher, labels))
        gradient, result = gradient_of(*batch, adjust="probability_shift", dynamic=dynamic, alpha=1.0)
        assert float(result["loss"]) == pytest.approx(0.0, abs=1e-13), name
        assert gradient.abs().amax() < 1e-13, name


def test_a_student_that_equals_the_smoothed_target_has_no_loss_and_no_gradient():
    _, teacher, labels = tensors(BATCHES["random"])
    student = 4.0 * adjust_targets(teacher, labels, kind="label_smoothing", temperature=4.0).log()
    gradient, result = gradient_of(student, teacher, labels, adjust="label_smoothing", alpha=1.0)
    assert float(result["loss"]) == pytest.approx(0.0, abs=1e-13)
    assert gradient.abs().amax() < 1e-13


adversarial = st.sampled_from([0.0, 1.0, -1.0, 1e-20, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30, F32_MAX, -F32_MAX])
ordinary = st.floats(-30, 30, allow_subnormal=False)


@st.composite
def any_batch(draw):
    samples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    row = st.lists(adversarial | ordinary, min_size=classes, max_size=classes)
    rows = st.lists(row, min_size=samples, max_size=samples)
    student, teacher = draw(rows), draw(rows)
    for sample in draw(st.sets(st.integers(0, samples - 1))):
        student[sample] = list(teacher[sample])
    return student, teacher, draw(st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples))


search = settings(max_examples=100, deadline=None, derandomize=True, database=None)
options_of_the_loss = st.fixed_dictionaries(
    {
        "adjust": st.sampled_from(ADJUST),
        "dynamic": st.sampled_from(DYNAMIC),
        "normalize": st.sampled_from(NORMALIZE),
        "scale": st.sampled_from(SCALE),
        "alpha": st.sampled_from([0.0, 0.5, 1.0]),
        "epsilon": st.sampled_from([0.0, 0.1, 1.0]),
        "base": st.sampled_from([1.0, 4.0]),
        "beta": st.sampled_from([0.0, 1.0, 40.0]),
        "gamma": st.sampled_from([0.5, 1.0, 2.0]),
    }
)


@search
@given(any_batch(), options_of_the_loss)
def test_any_batch_matches_the_reference(batch, options):
    actual = distillation_loss(*tensors(batch), **options)
    expected = reference.distillation_loss(*batch, **options)
    close(actual["temperature"], expected["temperature"], rtol=1e-6)
    for part in PARTS:
        assert float(actual[part]) == pytest.approx(expected[part], rel=1e-5, abs=1e-8), part


@search
@given(any_batch(), options_of_the_loss, st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_any_finite_logits_give_a_finite_loss_that_is_not_negative(batch, options, dtype):
    student, teacher, labels = tensors(batch)
    largest = torch.finfo(dtype).max
    student, teacher = (z.clamp(-largest, largest).to(dtype) for z in (student, teacher))
    gradient, result = gradient_of(student, teacher, labels, **options)
    for part in PARTS:
        assert math.isfinite(result[part]), part
    assert result["kd"] >= -rounding(result["temperature"])
    assert result["ce"] >= 0
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(result["temperature"]).all()
    assert (result["temperature"] >= 1.0).all()
    if options["normalize"] != "none":  # the normalised weights are at least 0 and their mean at most 1
        assert (result["temperature"] <= 1.001 * (options["base"] + options["beta"])).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("adjust", ADJUST)
def test_the_largest_finite_logits_stay_finite_over_a_thousand_classes(adjust, dynamic, dtype):
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(-1, 2, (2, 16, 1000), generator=generator)
    student, teacher = (signs * torch.finfo(dtype).max).nan_to_num().to(dtype)
    labels = torch.randint(1000, (16,), generator=generator)
    gradient, result = gradient_of(student, teacher, labels, adjust=adjust, dynamic=dynamic)
    assert all(math.isfinite(result[part]) for part in PARTS)
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(adjust_targets(teacher, labels, kind=adjust)).all()


@pytest.mark.parametrize("adjust", ADJUST)
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_inputs_are_never_changed_in_place(adjust, dynamic):
    for batch in BATCHES.values():
        inputs = tensors(batch)
        student, teacher, labels = inputs
        before, versions = [t.clone() for t in inputs], [t._version for t in inputs]
        adjust_targets(teacher, labels, kind=adjust, temperature=2.0)
        dynamic_temperature(student, teacher, kind=dynamic, base=4.0)
        distillation_loss(student, teacher, labels, adjust=adjust, dynamic=dynamic)
        assert [t._version for t in inputs] == versions
        assert all(torch.equal(now, then) for now, then in zip(inputs, before, strict=True))


def test_a_temperature_tensor_is_never_changed_in_place():
    _, teacher, labels = tensors(BATCHES["random"])
    temperature = torch.full((7,), 2.0, dtype=torch.float64)
    adjust_targets(teacher, labels, kind="probability_shift", temperature=temperature)
    assert temperature._version == 0


@pytest.mark.parametrize("student_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("teacher_dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_half_precision_is_computed_in_float32(student_dtype, teacher_dtype, dynamic):
    student, teacher, labels = tensors(random_batch(8, 10, seed=14), torch.float32)
    student, teacher = student.to(student_dtype), teacher.to(teacher_dtype)
    options = {"adjust": "label_smoothing", "dynamic": dynamic}
    low, high = (
        distillation_loss(s, t, labels, **options) for s, t in [(student, teacher), (student.float(), teacher.float())]
    )
    for part in [*PARTS, "temperature"]:
        assert torch.as_tensor(low[part]).dtype == torch.float32, part
        assert torch.equal(torch.as_tensor(low[part]), torch.as_tensor(high[part])), part
    for kind in ADJUST:
        target = adjust_targets(teacher, labels, kind=kind, temperature=2.0)
        assert target.dtype == torch.float32
        assert torch.equal(target, adjust_targets(teacher.float(), labels, kind=kind, temperature=2.0))


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_autocast_does_not_lower_the_arithmetic(dynamic):
    batch = tensors(random_batch(8, 10, seed=15), torch.float32)
    outside = distillation_loss(*batch, adjust="probability_shift", dynamic=dynamic)
    with torch.autocast("cpu", torch.bfloat16):
        inside = distillation_loss(*batch, adjust="probability_shift", dynamic=dynamic)
    for part in [*PARTS, "temperature"]:
        torch.testing.assert_close(torch.as_tensor(inside[part]), torch.as_tensor(outside[part]), rtol=0, atol=0)


@pytest.mark.parametrize(("samples", "classes"), [(1, 1), (1, 4), (4, 1), (4, 4), (3, 5)])
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_shapes(samples, classes, dynamic):
    student, teacher, labels = tensors(random_batch(samples, classes, seed=16))
    for kind in ADJUST:
        assert adjust_targets(teacher, labels, kind=kind).shape == (samples, classes)
    assert dynamic_temperature(student, teacher, kind=dynamic, base=4.0).shape == (samples,)
    result = distillation_loss(student, teacher, labels, dynamic=dynamic)
    assert result["temperature"].shape == (samples,)
    assert all(torch.as_tensor(result[part]).shape == () for part in PARTS)


@pytest.mark.parametrize("dynamic", DYNAMIC)
@pytest.mark.parametrize("adjust", ADJUST)
def test_no_loop_over_samples_and_no_host_sync(adjust, dynamic):
    counts = []
    for samples in (2, 64):
        batch = tensors(random_batch(samples, 5, seed=17))
        with CountOperations() as operations:
            distillation_loss(*batch, adjust=adjust, dynamic=dynamic)
        counts.append(operations.count)
    assert counts[0] == counts[1]
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:  # no data: whatever asks for a value raises
        student, teacher, labels = (fake.from_tensor(t) for t in tensors(BATCHES["random"]))
        assert distillation_loss(student, teacher, labels, adjust=adjust, dynamic=dynamic)["loss"].shape == ()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_an_error(bad):
    student, teacher, labels = tensors(BATCHES["random"])
    with pytest.raises(ValueError, match=r"temperature|base"):
        adjust_targets(teacher, labels, kind="none", temperature=bad)
    for dynamic in DYNAMIC:
        with pytest.raises(ValueError, match=r"temperature|base"):
            dynamic_temperature(student, teacher, kind=dynamic, base=bad)
        with pytest.raises(ValueError, match=r"temperature|base"):
            distillation_loss(student, teacher, labels, dynamic=dynamic, base=bad)


@pytest.mark.parametrize("dynamic", ["flsw", "cwsm"])
@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan")])
def test_a_floor_that_is_not_positive_is_an_error(dynamic, bad):
    student, teacher, labels = tensors(BATCHES["random"])
    with pytest.raises(ValueError, match="floor"):
        distillation_loss(student, teacher, labels, dynamic=dynamic, floor=bad)


def test_shapes_that_would_broadcast_are_errors():
    student, teacher, labels = tensors(random_batch(4, 3, seed=19))
    for other in [teacher[:1], teacher[:, :1], teacher[0], teacher[:, :, None]]:
        for kind in ["flsw", "cwsm"]:
            with pytest.raises(ValueError):  # noqa: PT011
                dynamic_temperature(student, other, kind=kind, base=4.0)
        with pytest.raises(ValueError):  # noqa: PT011
            distillation_loss(student, other, labels)
    for other in [labels[:1], labels[:, None], labels[None]]:
        for kind in ADJUST:
            with pytest.raises(ValueError):  # noqa: PT011
                adjust_targets(teacher, other, kind=kind)
            with pytest.raises(ValueError):  # noqa: PT011
                distillation_loss(student, teacher, other, adjust=kind)
    for temperature in [torch.ones(1), torch.ones(4, 1), torch.ones(3)]:
        with pytest.raises(ValueError):  # noqa: PT011
            adjust_targets(teacher, labels, kind="none", temperature=temperature)


def test_an_unknown_kind_is_an_error():
    student, teacher, labels = tensors(BATCHES["random"])
    with pytest.raises(ValueError, match="shift"):
        adjust_targets(teacher, labels, kind="shift")
    with pytest.raises(ValueError, match="focal"):
        dynamic_temperature(student, teacher, kind="focal", base=4.0)
    with pytest.raises(ValueError, match="l1"):
        dynamic_temperature(student, teacher, kind="flsw", base=4.0, normalize="l1")
    for option in ("adjust", "dynamic", "scale"):
        with pytest.raises(ValueError, match="typo"):
            distillation_loss(student, teacher, labels, **{option: "typo"})
    with pytest.raises(ValueError, match="typo"):
        distillation_loss(student, teacher, labels, dynamic="cwsm", normalize="typo")
