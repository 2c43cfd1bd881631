"""Batches that break supervision formulas: 1e30, the float maximum, ties, parallel and zero rows, one class or sample.

Lists of Python floats, as the references take them; `tensors` makes the float64 tensors that the package takes.
"""

import math

import pytest
import torch

from compress.losses.distillation import distillation_loss

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
