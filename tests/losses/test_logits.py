"""decoupled_kd and dist_loss against slow references, scipy, the papers' identities, and what breaks a logit loss."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from torch._subclasses.fake_tensor import FakeTensorMode

from compress.losses import adjust_targets, decoupled_kd, dist_loss
from compress.losses.distillation import distillation_loss, dynamic_temperature
from tests.reference import terms_reference as reference
from tests.reference.supervision_cases import ADJUST, BATCHES, DYNAMIC, random_batch, tensors

RANDOM = [random_batch(n, c, seed=seed) for seed, (n, c) in enumerate([(7, 5), (6, 6), (4, 10), (9, 3), (5, 2)] * 3)]
adjusted = pytest.mark.parametrize("adjust", ADJUST)


def dkd(student, teacher, labels, **options):
    return decoupled_kd(student, teacher, labels, **options)


def dist(student, teacher, labels, **options):
    return dist_loss(student, teacher, labels=labels, **options)


both = pytest.mark.parametrize("loss", [dkd, dist])


def gradient(loss, student, teacher, labels, **options):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, labels, **options)
    return torch.autograd.grad(value, student)[0], value.detach()


def temperatures(batch, kind):
    student, teacher, _ = tensors(batch)
    return dynamic_temperature(student, teacher, kind=kind, base=4.0, beta=6.0)


@adjusted
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 2.5, "beta": 0.5}])
def test_decoupled_kd_is_its_reference(adjust, options):
    for batch in RANDOM:
        actual = decoupled_kd(*tensors(batch), adjust=adjust, **options)
        assert actual.shape == ()
        assert actual.item() == pytest.approx(reference.decoupled_kd(*batch, adjust=adjust, **options), rel=1e-9)


@adjusted
@pytest.mark.parametrize("options", [{}, {"temperature": 4.0}, {"temperature": 2.5, "beta": 0.5, "gamma": 2.0}])
def test_dist_loss_is_its_reference(adjust, options):
    for batch in RANDOM:
        student, teacher, labels = tensors(batch)
        actual = dist_loss(student, teacher, labels=labels, adjust=adjust, **options)
        assert actual.shape == ()
        expected = reference.dist_loss(*batch[:2], labels=batch[2], adjust=adjust, **options)
        assert actual.item() == pytest.approx(expected, rel=1e-8)


@adjusted
@pytest.mark.parametrize("kind", ["flsw", "cwsm"])
def test_both_take_the_temperatures_and_targets_of_dtd_and_ka(adjust, kind):
    for batch in RANDOM:
        t = temperatures(batch, kind)
        assert t.unique().numel() > 1
        options = {"adjust": adjust, "epsilon": 0.2}
        expected = reference.decoupled_kd(*batch, temperature=t.tolist(), **options)
        assert decoupled_kd(*tensors(batch), temperature=t, **options).item() == pytest.approx(expected, rel=1e-8)
        expected = reference.dist_loss(*batch[:2], labels=batch[2], temperature=t.tolist(), **options)
        assert dist(*tensors(batch), temperature=t, **options).item() == pytest.approx(expected, rel=1e-7)


@adjusted
@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_decoupled_kd_with_the_papers_coupling_is_plain_kd(adjust, dynamic):
    """KD = TCKD + (1 - p_t) NCKD, sample by sample; kd itself is compared with torch's kl_div elsewhere."""
    for batch in RANDOM:
        student, teacher, labels = tensors(batch)
        whole = distillation_loss(student, teacher, labels, adjust=adjust, dynamic=dynamic, beta=6.0)
        t = whole["temperature"]
        target = adjust_targets(teacher, labels, kind=adjust, temperature=t)
        coupled = [
            decoupled_kd(*(z[i : i + 1] for z in tensors(batch)), temperature=t[i : i + 1], beta=1 - p, adjust=adjust)
            for i, p in enumerate(target.gather(1, labels[:, None])[:, 0].tolist())
        ]
        torch.testing.assert_close(torch.stack(coupled).mean(), whole["kd"], rtol=1e-9, atol=1e-12)


def test_with_two_classes_nothing_is_left_but_the_label_s_part():
    batch = random_batch(6, 2, seed=1)
    student, teacher, labels = tensors(batch)
    kd = distillation_loss(student, teacher, labels, base=4.0)["kd"]
    torch.testing.assert_close(decoupled_kd(student, teacher, labels, beta=0.0), kd)
    torch.testing.assert_close(decoupled_kd(student, teacher, labels, beta=100.0), kd)


def test_dist_loss_is_made_of_scipy_s_correlations():
    for batch in RANDOM:
        student, teacher, _ = tensors(batch)
        p_s, p_t = F.softmax(student / 2.0, 1).numpy(), F.softmax(teacher / 2.0, 1).numpy()
        rows = [1 - pearsonr(a, b).statistic for a, b in zip(p_s, p_t, strict=True)]
        columns = [1 - pearsonr(a, b).statistic for a, b in zip(p_s.T, p_t.T, strict=True)]
        expected = 4.0 * (0.7 * sum(rows) / len(rows) + 1.3 * sum(columns) / len(columns))
        assert dist_loss(student, teacher, temperature=2.0, beta=0.7, gamma=1.3).item() == pytest.approx(expected)


def test_dist_loss_does_not_mind_scale_and_shift_of_probabilities():
    p_t = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.3, 0.5, 0.2]], dtype=torch.float64)
    p_s = 0.4 * p_t + 0.2  # sums to 1, and correlates fully over the classes
    assert dist_loss(p_s.log(), p_t.log(), gamma=0.0).item() == pytest.approx(0, abs=1e-12)
    assert dist_loss(p_s.log(), p_t.log(), beta=0.0).item() == pytest.approx(0, abs=1e-12)
    assert decoupled_kd(p_s.log(), p_t.log(), torch.tensor([0, 1, 2]), temperature=1.0).item() > 0.01


def test_a_row_that_is_constant_has_no_correlation_unless_both_are():
    for dtype, classes in itertools.product((torch.float32, torch.float64), (4, 6, 11, 100)):
        flat, peaked = torch.zeros(1, classes), torch.linspace(-2, 2, classes)[None]
        for constant in (0.0, 1.0, -7.3):
            one, other = (flat + constant).to(dtype), peaked.to(dtype)
            assert dist_loss(one, other, gamma=0.0) == 1
            assert dist_loss(other, one, gamma=0.0) == 1
            assert dist_loss(one, flat.to(dtype)) == 0
            assert gradient(dist, one, other, torch.tensor([0]))[0].abs().max() == 0


@both
@adjusted
def test_gradients_are_those_of_finite_differences(loss, adjust):
    batch = random_batch(5, 4, seed=3)
    student, teacher, labels = tensors(batch)
    t = temperatures(batch, "flsw")
    for temperature in (2.0, t):
        assert torch.autograd.gradcheck(
            lambda z, temperature=temperature: loss(z, teacher, labels, temperature=temperature, adjust=adjust),
            student.requires_grad_(),
        )


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_perfect_match_has_no_loss_and_no_gradient(loss, dtype):
    for name, (_, teacher, labels) in BATCHES.items():
        teacher, _, labels = tensors((teacher, teacher, labels))
        teacher = teacher.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
        for temperature in (1.0, 4.0, torch.linspace(1, 9, len(labels))):
            slope, value = gradient(loss, teacher, teacher, labels, temperature=temperature)
            assert value == 0, name
            assert slope.abs().max() <= 1e-4, name


@both
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_equals_the_adjusted_target_has_no_loss(loss, temperature):
    _, teacher, labels = tensors(RANDOM[0])
    for adjust in ("probability_shift", "label_smoothing"):
        student = temperature * adjust_targets(teacher, labels, kind=adjust, temperature=temperature).log()
        slope, value = gradient(loss, student, teacher, labels, temperature=temperature, adjust=adjust)
        assert value.item() == pytest.approx(0, abs=1e-10)
        assert slope.abs().max() < 1e-6


adversarial = st.sampled_from([0.0, 1.0, -1.0, 1e-20, 100.0, -100.0, 1e4, -1e4, 1e30, -1e30, 3e38, -3e38])


@st.composite
def any_batch(draw):
    samples, classes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    row = st.lists(adversarial | st.floats(-30, 30, allow_subnormal=False), min_size=classes, max_size=classes)
    rows = st.lists(row, min_size=samples, max_size=samples)
    labels = st.lists(st.integers(0, classes - 1), min_size=samples, max_size=samples)
    return draw(rows), draw(rows), draw(labels)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    any_batch(),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.sampled_from(ADJUST),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(DYNAMIC),
)
def test_any_finite_logits_give_a_finite_loss_that_is_not_negative(batch, dtype, adjust, epsilon, dynamic):
    student, teacher, labels = tensors(batch)
    largest = torch.finfo(dtype).max
    student, teacher = (z.clamp(-largest, largest).to(dtype) for z in (student, teacher))
    temperature = dynamic_temperature(student, teacher, kind=dynamic, base=4.0)
    for loss in (dkd, dist):
        options = {"temperature": temperature, "adjust": adjust, "epsilon": epsilon}
        slope, value = gradient(loss, student, teacher, labels, **options)
        assert math.isfinite(value)
        assert value >= -1e-2  # rounding of p log p in float32, times 8 T^2 of up to 44^2
        assert slope.isfinite().all()


@both
def test_thousand_classes_of_the_largest_logits_stay_finite(loss):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        signs = torch.randint(-1, 2, (2, 16, 1000), generator=generator)
        student, teacher = (signs * torch.finfo(dtype).max).nan_to_num().to(dtype)
        labels = torch.randint(1000, (16,), generator=generator)
        for adjust in ADJUST:
            slope, value = gradient(loss, student, teacher, labels, adjust=adjust)
            assert value.isfinite()
            assert slope.isfinite().all()


@adjusted
def test_small_probabilities_keep_their_ratios(adjust):
    """The other classes of a sure teacher: their probabilities underflow to 0 in float32, their logits do not."""
    teacher = torch.tensor([[200.0, 3.0, 1.0, 0.0]])
    student = torch.tensor([[200.0, 0.0, 1.0, 3.0]])
    labels = torch.tensor([0])
    value = decoupled_kd(student, teacher, labels, temperature=1.0, adjust=adjust).item()
    expected = 8.0 * F.kl_div(F.log_softmax(student[:, 1:], 1), F.softmax(teacher[:, 1:], 1), reduction="sum").item()
    assert value == pytest.approx(expected, rel=1e-5)


@both
def test_half_precision_is_computed_in_float32_also_in_autocast(loss):
    student, teacher, labels = tensors(random_batch(8, 10, seed=14), torch.float32)
    for dtype in (torch.float16, torch.bfloat16):
        low = loss(student.to(dtype), teacher.to(dtype), labels)
        high = loss(student.to(dtype).float(), teacher.to(dtype).float(), labels)
        assert low.dtype == torch.float32
        assert torch.equal(low, high)
    outside = loss(student, teacher, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss(student, teacher, labels), outside)


@both
def test_no_gradient_reaches_the_teacher_and_no_value_is_read(loss):
    student, teacher, labels = tensors(RANDOM[0])
    value = loss(student.requires_grad_(), teacher.requires_grad_(), labels)
    assert torch.autograd.grad(value, teacher, allow_unused=True)[0] is None
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:  # no data: whatever asks for a value raises
        student, teacher, labels = (fake.from_tensor(z) for z in tensors(RANDOM[0]))
        assert loss(student, teacher, labels, adjust="probability_shift").shape == ()


@both
def test_what_would_broadcast_or_is_unknown_is_an_error(loss):
    student, teacher, labels = tensors(random_batch(4, 3, seed=19))
    for other in (teacher[:1], teacher[:, :1], teacher[0]):
        with pytest.raises(ValueError, match="logits"):
            loss(student, other, labels)
    with pytest.raises(ValueError, match="labels"):
        loss(student, teacher, labels[:1])
    for temperature in (0.0, -1.0, torch.ones(3), torch.ones(4, 1)):
        with pytest.raises(ValueError, match="temperature"):
            loss(student, teacher, labels, temperature=temperature)
    with pytest.raises(ValueError, match="typo"):
        loss(student, teacher, labels, adjust="typo")
    with pytest.raises(ValueError, match="logits"):
        dist_loss(student, teacher[0])
    with pytest.raises(ValueError, match="needs labels"):
        dist_loss(student, teacher, adjust="probability_shift")
