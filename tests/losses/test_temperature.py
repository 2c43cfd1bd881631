"""dynamic_temperature against a slow per-sample reference."""

import pytest
import torch

from compress.losses.distillation import distillation_loss, dynamic_temperature
from tests.reference import supervision_reference as reference
from tests.reference.supervision_cases import BATCHES, DYNAMIC, NORMALIZE, batches, close, tensors


@batches
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("kind", DYNAMIC)
@pytest.mark.parametrize(
    "options",
    [{"base": 4.0}, {"base": 4.0, "beta": 3.0, "gamma": 2.0}, {"base": 6.0, "beta": 0.5, "gamma": 1.0, "floor": 2.5}],
    ids=["defaults", "gentle", "high_floor"],
)
def test_temperatures_match_the_reference(batch, kind, normalize, options):
    student, teacher, _ = tensors(batch)
    actual = dynamic_temperature(student, teacher, kind=kind, normalize=normalize, **options)
    close(actual, reference.dynamic_temperature(*batch[:2], kind=kind, normalize=normalize, **options))


@batches
@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("kind", DYNAMIC)
def test_temperatures_are_at_or_above_the_floor(batch, kind, normalize):
    student, teacher, _ = tensors(batch)
    for floor in [0.25, 1.0, 3.5]:
        actual = dynamic_temperature(
            student, teacher, kind=kind, base=4.0, beta=500.0, normalize=normalize, floor=floor
        )
        assert actual.shape == (len(student),)
        assert (actual >= floor).all()


def test_unnormalised_weights_reach_the_floor_and_stop_there():
    student = torch.tensor([[8.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    actual = dynamic_temperature(student, student, kind="cwsm", base=4.0, normalize="none")  # weights about 1 and 4
    assert actual[1] == 1.0
    assert actual[0] > 60.0


def test_flsw_gives_the_lower_temperature_to_the_sample_farther_from_its_teacher():
    teacher = torch.tensor([[1.0, 0.0, 0.0]] * 3, dtype=torch.float64)
    student = torch.tensor([[1.0, 0.1, 0.0], [1.0, 1.0, 0.0], [-1.0, 0.2, 0.0]], dtype=torch.float64)
    near, middle, far = dynamic_temperature(student, teacher, kind="flsw", base=4.0, beta=2.0)
    assert near > middle > far


def test_cwsm_gives_the_lower_temperature_to_the_less_confident_sample_and_ignores_the_teacher():
    student = torch.tensor([[9.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.1, 0.0, 0.0]], dtype=torch.float64)
    sure, middle, unsure = dynamic_temperature(student, student.flip(0), kind="cwsm", base=4.0, beta=2.0)
    assert sure > middle > unsure


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("kind", ["flsw", "cwsm"])
def test_equal_weights_leave_the_base_temperature(kind, normalize):
    student, teacher = torch.tensor([[1.0, 2.0, 0.0]] * 5), torch.tensor([[0.0, 1.0, 3.0]] * 5)
    actual = dynamic_temperature(student.double(), teacher.double(), kind=kind, base=4.0, normalize=normalize)
    close(actual, [4.0] * 5)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_a_student_parallel_to_its_teacher_everywhere_keeps_the_base_temperature(factor, dtype, normalize):
    """All weights are 0; rounding error in the cosine, blown up by the normalisation, must not pass for a signal."""
    teacher = torch.randint(-20, 20, (32, 10), generator=torch.Generator().manual_seed(0)).to(dtype)
    actual = dynamic_temperature(factor * teacher, teacher, kind="flsw", base=4.0, normalize=normalize)
    torch.testing.assert_close(actual, torch.full((32,), 4.0, dtype=dtype), rtol=1e-4, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("normalize", ["l2", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_too_small_to_square_do_not_blow_up_the_temperature(dtype, normalize, gamma):
    """(1 - cos)^gamma of a student near its teacher underflows; normalised weights still have a mean of at most 1."""
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(32, 10, generator=generator, dtype=dtype)
    for distance in [1e-1, 1e-3, 1e-5, 1e-7]:
        student = teacher + distance * torch.randn(32, 10, generator=generator, dtype=dtype)
        actual = dynamic_temperature(student, teacher, kind="flsw", base=4.0, gamma=gamma, normalize=normalize)
        assert (actual >= 1.0).all()
        assert (actual <= 44.01).all()
        if distance >= 1e-3:  # nearer than that, float32 logits do not say how near
            expected = reference.dynamic_temperature(
                student.tolist(), teacher.tolist(), kind="flsw", base=4.0, gamma=gamma, normalize=normalize
            )
            torch.testing.assert_close(actual, torch.tensor(expected, dtype=dtype), rtol=2e-2, atol=0)


def test_a_constant_temperature_is_the_one_that_was_asked_for():
    """Plain KD has one temperature, and no floor: that belongs to the dynamic ones."""
    student, teacher, _ = tensors(BATCHES["random"])
    assert (dynamic_temperature(student, teacher, kind="constant", base=0.5, floor=1.0) == 0.5).all()


def test_a_base_below_the_floor_is_lifted_when_the_temperature_is_dynamic():
    student, teacher, _ = tensors(BATCHES["perfect_match"])
    for kind in ["flsw", "cwsm"]:
        assert (dynamic_temperature(student, teacher, kind=kind, base=0.5, beta=0.0, floor=2.0) == 2.0).all()


@pytest.mark.parametrize("kind", DYNAMIC)
def test_no_gradient_flows_through_the_temperature(kind):
    student, teacher, _ = (t.requires_grad_() if t.is_floating_point() else t for t in tensors(BATCHES["random"]))
    actual = dynamic_temperature(student, teacher, kind=kind, base=4.0)
    assert not actual.requires_grad
    result = distillation_loss(student, teacher, torch.zeros(7, dtype=torch.long), dynamic=kind)
    assert not result["temperature"].requires_grad


def test_no_gradient_reaches_the_teacher():
    student, teacher, labels = tensors(BATCHES["random"])
    teacher.requires_grad_()
    loss = distillation_loss(student.requires_grad_(), teacher, labels, adjust="probability_shift")["loss"]
    assert torch.autograd.grad(loss, teacher, allow_unused=True)[0] is None
