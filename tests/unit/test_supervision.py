"""compress.supervision against slow per-sample references, torch's own kl_div, and a real two-process group.

The references (tests/reference/supervision_reference.py) are written from the formulas alone. Nearly everything runs in
float64 on logits chosen to break it: 1e30, the float maximum, ties, parallel and zero rows, one class, one sample.
"""

import datetime
import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from compress.supervision import adjust_targets, distillation_loss, dynamic_temperature
from tests.reference import supervision_reference as reference

ADJUST = ["none", "probability_shift", "label_smoothing"]
DYNAMIC = ["constant", "flsw", "cwsm"]
NORMALIZE = ["l2", "mean", "none"]
SCALE = ["sample", "base"]
PARTS = ["loss", "kd", "ce", "adjusted"]
F32_MAX = torch.finfo(torch.float32).max


def random_batch(samples, classes, seed, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = spread * torch.randn(2, samples, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (samples,), generator=generator)
    return student.tolist(), teacher.tolist(), labels.tolist()


# name -> student rows, teacher rows, labels. In a square one (N == C) rows taken for columns give a value, a wrong one.
BATCHES = {
    "random": random_batch(7, 5, seed=0),
    "square": random_batch(6, 6, seed=1),
    "confident": random_batch(8, 4, seed=2, spread=40.0),
    "one_sample": random_batch(1, 5, seed=3),
    "one_class": ([[3.0], [-2.0], [0.0]], [[1.0], [5.0], [0.0]], [0, 0, 0]),
    "one_sample_one_class": ([[2.0]], [[-7.0]], [0]),
    "two_classes": random_batch(5, 2, seed=4),
    "all_zero": ([[0.0] * 3] * 4, [[0.0] * 3] * 4, [0, 1, 2, 0]),
    "all_equal_rows": ([[2.0] * 3, [-1.0] * 3, [5.0] * 3], [[7.0] * 3, [1.0] * 3, [-4.0] * 3], [0, 1, 2]),
    "zero_student": ([[0.0] * 3, [1.0, 2.0, -1.0]], [[1.0, 0.0, 2.0], [0.0] * 3], [0, 1]),
    "huge": (
        [[1e4, -1e4, 0.0], [0.0, 1e4, 1e4], [1e4, 1e4, 1e4], [1.0, 2.0, 3.0]],
        [[-1e4, 1e4, 0.0], [1e4, 0.0, 1e4], [-1e4, -1e4, 1e4], [1e4, 2.0, 3.0]],
        [0, 1, 1, 2],
    ),
    "1e30": (
        [[1e30, -1e30, 0.0], [0.0, 1e30, 1e30], [-1e30, -1e30, -1e30], [0.0, 1.0, 2.0]],
        [[-1e30, 1e30, 0.0], [1e30, 0.0, 1e30], [1e30, 0.0, -1e30], [1e30, 0.0, 1.0]],
        [0, 1, 2, 1],
    ),
    "float32_max": (
        [[F32_MAX, -F32_MAX, 0.0], [-F32_MAX, F32_MAX, F32_MAX], [F32_MAX, 1e30, 5e29]],
        [[-F32_MAX, F32_MAX, 0.0], [F32_MAX, F32_MAX, -F32_MAX], [1e31, F32_MAX, -F32_MAX]],
        [0, 2, 0],
    ),
    "tiny": (
        [[1e-30, -1e-30, 2e-30], [1e-20, 0.0, 0.0], [1.0, 2.0, 0.5]],
        [[1e-30, 2e-30, 0.0], [1.0, 1.0, 0.0], [1e-30, 1e-30, 3e-30]],
        [0, 1, 2],
    ),
    "ties": (
        [[1.0, 1.0, 0.0], [2.0, 2.0, 2.0], [0.0, 3.0, 3.0], [1.0, 0.0, 1.0]],
        [[2.0, 2.0, 0.0], [0.0, 2.0, 2.0], [3.0, 1.0, 3.0], [4.0, 4.0, 4.0]],
        [1, 0, 1, 2],
    ),
    "wrong_by_a_hair": (  # one step of the last place: the logits differ, the tempered probabilities do not
        [[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 1.0, 0.0]],
        [[1.0, math.nextafter(1.0, 2.0), 0.0], [0.0, 1e-300, 0.0], [-5.0, 0.0, math.nextafter(0.0, 1.0)]],
        [0, 0, 1],
    ),
    "top_by_a_hair": (  # the top class is the one of the logits; after the softmax an earlier class ties with it
        [[0.0, 0.0, 0.0, 1.0], [2.0, 1.0, 0.0, -1.0]],
        [[-1.0, 0.0, 0.0, 1e-20], [1.0, 3.0, math.nextafter(3.0, 4.0), -1.0]],
        [0, 3],
    ),
    "perfect_match": (random_batch(5, 4, seed=5)[0], random_batch(5, 4, seed=5)[0], [0, 1, 2, 3, 0]),
    "nearly_parallel": (
        [[1.001, -2.0, 0.5], [3.0, 0.003, -1.0], [0.2, 0.1, -0.7], [-2.0, 1.0, 4.0]],
        [[1.0, -2.0, 0.5], [6.0, 0.0, -2.0], [0.2, 0.1001, -0.7], [-1.0, 0.5, 2.003]],
        [0, 1, 2, 1],
    ),
    "opposite": ([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]], [[-1.0, 2.0, -0.5], [-6.0, 0.0, 2.0]], [0, 1]),
    "all_wrong": ([[0.0, 1.0, 2.0]] * 3, [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 0.0, 2.0]], [1, 0, 0]),
    "all_right": ([[0.0, 1.0, 2.0]] * 3, [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 0.0, 2.0]], [0, 1, 2]),
}
batches = pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
# At the clamp and beyond the slope is the clamp's, whatever the softmax says.
unclamped = {name: batch for name, batch in BATCHES.items() if name not in ("1e30", "float32_max")}


def tensors(batch, dtype=torch.float64):
    student, teacher, labels = batch
    return torch.tensor(student, dtype=dtype), torch.tensor(teacher, dtype=dtype), torch.tensor(labels)


def close(actual, expected, rtol=1e-9, atol=1e-11):
    """Same shape and dtype float64, and near enough; `expected` is what the reference returned."""
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=rtol, atol=atol)


def gradient_of(student, teacher, labels, **options):
    student = student.clone().requires_grad_()
    result = distillation_loss(student, teacher, labels, **options)
    return torch.autograd.grad(result["loss"], student)[0], {name: part.detach() for name, part in result.items()}


def rounding(temperature):
    """What a sum over some classes of p log p, times T^2, may be off by."""
    return 16 * torch.finfo(temperature.dtype).eps * float(temperature.max()) ** 2


# --- adjusted targets -------------------------------------------------------------------------------------------------


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


# --- dynamic temperature ----------------------------------------------------------------------------------------------


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


# --- the loss and its parts -------------------------------------------------------------------------------------------


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


# --- gradients --------------------------------------------------------------------------------------------------------


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


# --- what goes wrong elsewhere ----------------------------------------------------------------------------------------


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


class CountOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


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


# --- two processes ----------------------------------------------------------------------------------------------------

GLOBAL_SAMPLES, FEATURES, CLASSES = 8, 3, 4
GLOBAL_CASES = [
    {"adjust": adjust, "dynamic": dynamic, "normalize": normalize, "scale": scale, "beta": 6.0}
    for dynamic in DYNAMIC
    for normalize in (NORMALIZE if dynamic != "constant" else ["l2"])
    for adjust, scale in [("none", "sample"), ("probability_shift", "base"), ("label_smoothing", "sample")]
]
SPLITS = {"even": [4, 4], "uneven": [2, 6]}


def global_batch(student_equals_teacher_in=0):
    """Inputs, teacher logits, labels, weights of a linear student; the halves differ in how confusing they are."""
    generator = torch.Generator().manual_seed(18)
    inputs = torch.randn(GLOBAL_SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    weights = torch.randn(FEATURES, CLASSES, generator=generator, dtype=torch.float64)
    teacher = 2.0 * torch.randn(GLOBAL_SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
    teacher[4:] = inputs[4:] @ weights + 0.1 * teacher[4:]
    teacher[:student_equals_teacher_in] = inputs[:student_equals_teacher_in] @ weights
    return inputs, teacher, torch.randint(CLASSES, (GLOBAL_SAMPLES,), generator=generator), weights


def step(inputs, teacher, labels, weights, **options):
    weights = weights.clone().requires_grad_()
    result = distillation_loss(inputs @ weights, teacher, labels, **options)
    result["loss"].backward()
    return {name: torch.as_tensor(part).detach().double() for name, part in result.items()} | {"gradient": weights.grad}


def average(parts):
    """What DDP does to gradients and a training loop to its metrics."""
    for name, part in parts.items():
        if name != "temperature":
            dist.all_reduce(part)
            part /= dist.get_world_size()
    return parts


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    alone = [dist.new_group([0]), dist.new_group([1])][rank]
    *batch, weights = global_batch()
    shard = {name: [t.split(sizes)[rank] for t in batch] for name, sizes in SPLITS.items()}
    inputs, teacher, labels = shard["even"]
    found = {"world": [], "none": [], "alone": [], "uneven": [], "matched": []}
    for case in GLOBAL_CASES:
        found["world"].append(average(step(*shard["even"], weights, **case, group=dist.group.WORLD)))
        found["none"].append(step(*shard["even"], weights, **case))
        found["alone"].append(step(*shard["even"], weights, **case, group=alone))
        found["uneven"].append(step(*shard["uneven"], weights, **case, group=dist.group.WORLD)["temperature"])
        matched = global_batch(student_equals_teacher_in=4)[1].split(SPLITS["even"])[rank]
        temperature = dynamic_temperature(
            inputs @ weights,
            matched,
            kind=case["dynamic"],
            base=4.0,
            beta=6.0,
            normalize=case["normalize"],
            group=dist.group.WORLD,
        )
        found["matched"].append(temperature)
    found["targets"] = adjust_targets(teacher, labels, kind="probability_shift", group=dist.group.WORLD)
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def case_name(index):
    return "-".join(str(value) for value in GLOBAL_CASES[index].values())


cases = pytest.mark.parametrize("case", range(len(GLOBAL_CASES)), ids=case_name)


@cases
def test_two_halves_with_a_group_equal_one_whole_batch(two_processes, case):
    *batch, weights = global_batch()
    whole = step(*batch, weights, **GLOBAL_CASES[case])
    halves = [found["world"][case] for found in two_processes]
    temperature = torch.cat([half["temperature"] for half in halves])
    torch.testing.assert_close(temperature, whole["temperature"], rtol=1e-12, atol=0)
    for half in halves:
        for part in [*PARTS, "gradient"]:
            torch.testing.assert_close(half[part], whole[part], rtol=1e-11, atol=1e-14, msg=part)


@cases
def test_uneven_parts_with_a_group_have_the_temperatures_of_the_whole_batch(two_processes, case):
    *batch, weights = global_batch()
    whole = step(*batch, weights, **GLOBAL_CASES[case])["temperature"]
    parts = torch.cat([found["uneven"][case] for found in two_processes])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)


@cases
def test_a_rank_without_any_weight_still_shares_the_global_statistics(two_processes, case):
    inputs, teacher, _, weights = global_batch(student_equals_teacher_in=4)
    expected = reference.dynamic_temperature(
        (inputs @ weights).tolist(),
        teacher.tolist(),
        kind=GLOBAL_CASES[case]["dynamic"],
        base=4.0,
        beta=6.0,
        normalize=GLOBAL_CASES[case]["normalize"],
    )
    close(torch.cat([found["matched"][case] for found in two_processes]), expected, rtol=1e-6)


@cases
def test_without_a_group_or_in_a_group_of_one_the_statistics_are_the_rank_s_own(two_processes, case):
    *batch, weights = global_batch()
    for rank, found in enumerate(two_processes):
        expected = step(*(t.split(4)[rank] for t in batch), weights, **GLOBAL_CASES[case])
        for kind in ["none", "alone"]:
            for part, value in expected.items():
                torch.testing.assert_close(found[kind][case][part], value, rtol=1e-12, atol=1e-14, msg=f"{kind} {part}")


def test_the_halves_differ_so_that_local_statistics_would_be_noticed(two_processes):
    for case, options in enumerate(GLOBAL_CASES):
        if options["dynamic"] != "constant":
            world, local = (
                torch.cat([found[kind][case]["temperature"] for found in two_processes]) for kind in ("world", "none")
            )
            assert (world - local).abs().max() > 0.01


def test_adjusted_targets_take_a_group_and_need_nothing_from_it(two_processes):
    _, teacher, labels, _ = global_batch()
    expected = adjust_targets(teacher, labels, kind="probability_shift")
    assert torch.equal(torch.cat([found["targets"] for found in two_processes]), expected)
