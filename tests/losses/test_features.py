"""compress.losses.features against slow per-sample references, the formulas of the authors, and finite differences."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from compress.losses import features
from tests.helpers.operations import CountOperations
from tests.reference import terms_reference as reference

LOSSES = ["fitnet", "attention_transfer", "neuron_selectivity", "similarity_preserving", "relational"]
losses = pytest.mark.parametrize("name", LOSSES)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
# (N, C_s, C_t, H, W) by what each loss needs to be equal; the last ones make channel pairs fewer than pairs of places.
SHAPES = [(4, 3, 3, 2, 2), (1, 2, 2, 3, 1), (3, 1, 1, 1, 1), (5, 2, 2, 3, 4)]
OTHER_CHANNELS = [(4, 3, 5, 2, 2), (3, 6, 2, 1, 1), (2, 2, 3, 4, 3)]


def random_maps(shape, seed, dtype=torch.float64, relu=False):
    generator = torch.Generator().manual_seed(seed)
    n, c_s, c_t, h, w = shape
    f_s, f_t = (torch.randn(n, c, h, w, generator=generator, dtype=torch.float64) + 0.3 for c in (c_s, c_t))
    return tuple((f.relu() if relu else f).to(dtype) for f in (f_s, f_t))


def cases(name):
    return SHAPES + (OTHER_CHANNELS if name != "fitnet" else [])


def gradient(name, f_s, f_t, **options):
    f_s = f_s.clone().requires_grad_()
    value = getattr(features, name)(f_s, f_t, **options)
    return torch.autograd.grad(value, f_s)[0], value.detach()


@losses
@pytest.mark.parametrize("relu", [False, True])  # after a ReLU whole channels and samples are 0
def test_each_loss_is_its_reference(name, relu):
    for shape in cases(name):
        for seed in range(15):
            f_s, f_t = random_maps(shape, seed, relu=relu)
            actual = getattr(features, name)(f_s, f_t)
            assert actual.shape == ()
            expected = getattr(reference, name)(f_s.numpy(), f_t.numpy())
            assert actual.item() == pytest.approx(expected, rel=1e-9, abs=1e-12), (shape, seed)


@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_and_single_precision_are_near_the_reference(name, dtype):
    for shape in cases(name):
        f_s, f_t = random_maps(shape, 3, dtype)
        expected = getattr(reference, name)(f_s.double().numpy(), f_t.double().numpy())
        actual = getattr(features, name)(f_s, f_t)
        assert actual.dtype == torch.float32
        assert actual.item() == pytest.approx(expected, rel=1e-4, abs=1e-6), shape


def test_options_of_relational_weigh_its_two_parts():
    f_s, f_t = random_maps((5, 3, 4, 2, 2), 0)
    distance, angle = (
        features.relational(f_s, f_t, distance_weight=d, angle_weight=a).item() for d, a in ((1.0, 0.0), (0.0, 1.0))
    )
    assert distance > 0.01
    assert angle > 0.01
    assert features.relational(f_s, f_t).item() == pytest.approx(25 * distance + 50 * angle)
    expected = reference.relational(f_s.numpy(), f_t.numpy(), distance_weight=2.0, angle_weight=3.0)
    assert features.relational(f_s, f_t, distance_weight=2.0, angle_weight=3.0).item() == pytest.approx(expected)


def test_attention_transfer_is_the_formula_of_its_authors_code():
    f_s, f_t = random_maps((6, 4, 4, 3, 3), 1)
    f_t = torch.cat([f_t, f_t * 2], dim=1)  # other channels do not matter

    def at(x):
        return F.normalize(x.pow(2).mean(1).view(x.size(0), -1))

    torch.testing.assert_close(features.attention_transfer(f_s, f_t), (at(f_s) - at(f_t)).pow(2).mean())


def test_similarity_preserving_is_the_formula_of_its_authors_code():
    f_s, f_t = random_maps((6, 4, 7, 3, 3), 2)
    g_s, g_t = (F.normalize(f.flatten(1) @ f.flatten(1).t()) for f in (f_s, f_t))
    torch.testing.assert_close(features.similarity_preserving(f_s, f_t), (g_t - g_s).pow(2).mean())


def test_neuron_selectivity_is_a_maximum_mean_discrepancy_in_the_feature_space_of_its_kernel():
    """(a.b)^2 is the inner product of the outer products a a^T and b b^T: the distance of their means is the MMD."""
    for shape in [(3, 4, 6, 2, 2), (3, 2, 3, 3, 3)]:  # either way to compute it
        f_s, f_t = random_maps(shape, 3)
        means = [torch.einsum("nci,ncj->nij", *[F.normalize(f.flatten(2), dim=2)] * 2) / f.shape[1] for f in (f_s, f_t)]
        expected = (means[0] - means[1]).pow(2).sum((1, 2)).mean()
        torch.testing.assert_close(features.neuron_selectivity(f_s, f_t), expected)


def test_known_values():
    """By hand: one sample with two places, and three samples on a line and at a right angle."""
    one, other = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 2.0]]]])
    assert features.fitnet(one, other).item() == pytest.approx((1 + 4) / 2)
    assert features.attention_transfer(one, other).item() == pytest.approx((1 + 1) / 2)
    assert features.neuron_selectivity(one, other).item() == pytest.approx(1 + 1 - 2 * 0)
    points_s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])[:, :, None, None]
    points_t = torch.tensor([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])[:, :, None, None]
    # Cosines at the first, second and third sample: 1, -1, 1 on the line; 1/sqrt 2, 0, 1/sqrt 2 at the right angle.
    near = 1 - 2**-0.5
    expected = 2 * (0.5 * near**2 + 0.5 + 0.5 * near**2) / 27
    actual = features.relational(points_s, points_t, distance_weight=0.0, angle_weight=1.0)
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    # Distances 1, 2, 1 with mean 4/3; 1, sqrt 2, 1 with mean (2 + sqrt 2) / 3.
    scale_s, scale_t = 4 / 3, (2 + 2**0.5) / 3
    short, long = 1 / scale_s - 1 / scale_t, 2 / scale_s - 2**0.5 / scale_t
    expected = 2 * (2 * 0.5 * short**2 + 0.5 * long**2) / 9
    actual = features.relational(points_s, points_t, distance_weight=1.0, angle_weight=0.0)
    assert actual.item() == pytest.approx(expected, rel=1e-5)
    orthogonal, equal = torch.eye(2)[:, :, None, None], torch.ones(2, 2, 1, 1)
    expected = 2 * ((1 - 2**-0.5) ** 2 + 0.5) / 4
    assert features.similarity_preserving(orthogonal, equal).item() == pytest.approx(expected, rel=1e-5)


def test_distances_between_many_near_samples_do_not_cancel():
    """Points within 1e-3 of one another, far from the origin: squares minus products have no digit left in float32."""
    points = 10 + 1e-3 * torch.randn(2, 40, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    for options in ({"angle_weight": 0.0}, {"distance_weight": 0.0}):
        expected = features.relational(points[0].double(), points[1].double(), **options)
        torch.testing.assert_close(features.relational(*points, **options).double(), expected, rtol=1e-3, atol=0)


@losses
def test_gradients_are_those_of_finite_differences(name):
    for shape in [(4, 3, 3, 2, 2), (3, 2, 2, 2, 3)]:
        f_s, f_t = random_maps(shape, 7)
        assert torch.autograd.gradcheck(lambda f, f_t=f_t: getattr(features, name)(f, f_t), f_s.requires_grad_())


def degenerate():
    """Maps in which norms and distances are 0 or nearly."""
    f = random_maps((4, 3, 3, 2, 2), 0, torch.float32)[0]
    zero_sample, zero_channel, twins = f.clone(), f.clone(), f.clone()
    zero_sample[1] = 0
    zero_channel[:, 2] = 0
    twins[2] = twins[0]
    return {
        "ordinary": f,
        "all_zero": torch.zeros_like(f),
        "constant": torch.ones_like(f),
        "zero_sample": zero_sample,
        "zero_channel": zero_channel,
        "twins": twins,
        "tiny": f * 1e-20,
        "large": f * 1e6,
        "one_sample": f[:1],
    }


@losses
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_perfect_match_has_no_loss_and_no_gradient(name, dtype):
    for case, f in degenerate().items():
        if case == "large" and dtype == torch.float16:
            continue  # out of its range
        slope, value = gradient(name, f.to(dtype), f.to(dtype))
        assert value.abs().item() <= 1e-6, case
        scale = f.abs().max().item() or 1.0
        assert (slope.double().abs() * scale).max().item() <= 1e-5, case


@losses
def test_gradients_are_finite_and_of_ordinary_size_where_norms_and_distances_are_zero(name):
    other = random_maps((4, 3, 3, 2, 2), 9, torch.float32)[0]
    for case, f in degenerate().items():
        if case in ("tiny", "large"):
            continue
        with torch.autograd.set_detect_anomaly(True):  # not even on the way
            slope, value = gradient(name, f, other[: len(f)])
        assert value.isfinite(), case
        assert value >= 0, case
        assert slope.abs().max() < 100, case  # 1e12 where a zero row is divided by the eps of F.normalize
        if name != "fitnet":
            assert gradient(name, torch.zeros_like(f), other[: len(f)])[0].abs().max() == 0, case


@losses
def test_no_gradient_reaches_the_teacher_and_inputs_are_never_changed(name):
    f_s, f_t = (f.requires_grad_() for f in random_maps((4, 3, 3, 2, 2), 1))
    before = copy.deepcopy((f_s.detach(), f_t.detach()))
    value = getattr(features, name)(f_s, f_t)
    assert torch.autograd.grad(value, f_t, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(value, f_s)[0].abs().max() > 0
    assert torch.equal(f_s, before[0])
    assert torch.equal(f_t, before[1])


@losses
def test_autocast_does_not_lower_the_arithmetic(name):
    f_s, f_t = random_maps((8, 4, 4, 3, 3), 2, torch.float32)
    outside = getattr(features, name)(f_s, f_t)
    with torch.autocast("cpu", torch.bfloat16):
        inside = getattr(features, name)(f_s, f_t)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, outside)


@losses
def test_memory_format_and_views_do_not_matter(name):
    f_s, f_t = random_maps((4, 3, 3, 2, 2), 4)
    expected = getattr(features, name)(f_s, f_t)
    last = getattr(features, name)(*(f.contiguous(memory_format=torch.channels_last) for f in (f_s, f_t)))
    torch.testing.assert_close(last, expected)


def test_what_must_be_equal_is_an_error_and_never_broadcast():
    f = torch.randn(4, 3, 2, 2)
    for name in LOSSES:
        for other in (f[:1], f[0], f.flatten(1)):
            with pytest.raises(ValueError, match=r"\[N, C, H, W\]"):
                getattr(features, name)(f, other)
    for name in ("fitnet", "attention_transfer", "neuron_selectivity"):
        with pytest.raises(ValueError, match="fitted first"):
            getattr(features, name)(f, f[:, :, :1])
    with pytest.raises(ValueError, match="fitted first"):
        features.fitnet(f, f[:, :1])
    for name in ("similarity_preserving", "relational"):
        getattr(features, name)(f, torch.randn(4, 5, 1, 3))


@losses
def test_no_loop_over_samples_and_no_host_sync(name):
    counts = []
    for samples in (2, 32):
        f_s, f_t = random_maps((samples, 3, 3, 2, 2), 5)
        with CountOperations() as operations:
            getattr(features, name)(f_s, f_t)
        counts.append(operations.count)
    assert counts[0] == counts[1]
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:  # no data: whatever asks for a value raises
        f_s, f_t = (fake.from_tensor(f) for f in random_maps((4, 3, 3, 2, 2), 6))
        assert getattr(features, name)(f_s, f_t).shape == ()


def test_neuron_selectivity_makes_no_matrix_larger_than_the_smaller_of_both_ways():
    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                self.size = max(self.size, out.numel())
            return out

    for shape in [(2, 64, 64, 2, 2), (2, 4, 4, 16, 16)]:
        f_s, f_t = random_maps(shape, 0)
        with Largest() as largest:
            features.neuron_selectivity(f_s, f_t)
        assert largest.size <= f_s.numel(), shape
