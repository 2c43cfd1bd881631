"""Knowledge distillation (KD), Knowledge Adjustment (KA) and Dynamic Temperature Distillation (DTD).

In: logits [N, C] and labels [N]. Out: the loss and its parts. KA corrects wrong targets of the teacher. DTD gives each
sample its own temperature. Source: Wen, Lai, Qian, "Preparing Lessons" (arXiv 1911.07471); our own choices are marked
"ours".
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from compress.losses.labels import Mixed, cross_entropy, mean_over_labeled
from compress.losses.targets import arithmetic, check, column, log_targets, wrong_rows
from compress.recipe.methods import Adjust, Dynamic

Normalize = Literal["l2", "mean", "none"]
Scale = Literal["sample", "base"]


@dataclass(frozen=True)
class DistillationSettings:
    """The settings of a method. Each field is the argument of `distillation_loss` with the same name and default."""

    adjust: Adjust = "none"
    epsilon: float = 0.1
    dynamic: Dynamic = "constant"
    base: float = 4.0
    beta: float = 40.0
    gamma: float = 0.5
    normalize: Normalize = "l2"
    floor: float = 1.0
    scale: Scale = "sample"
    alpha: float = 0.9


class Distillation(TypedDict):
    """What `distillation_loss` returns.

    `loss`, `kd` and `ce` are scalars. `temperature` is [N]. `adjusted` is the fraction of rows with a
    label that KA changed.
    """

    loss: Tensor
    kd: Tensor
    ce: Tensor
    temperature: Tensor
    adjusted: Tensor


def dynamic_temperature(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: Dynamic,
    base: float,
    beta: float = 40.0,
    gamma: float = 0.5,
    normalize: Normalize = "l2",
    floor: float = 1.0,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """The temperature of each sample: T_x = max(floor, base + beta * (mean_j w_j - w_x)).

    Source: Dynamic Temperature Distillation (arXiv 1911.07471). The floor is ours.

    Args:
        student_logits: [N, C], any float type.
        teacher_logits: [N, C], any float type.
        kind: how the weight w of a sample is computed.
            `flsw`: w = (1 - cos(student, teacher))^gamma.
            `cwsm`: w = 1 / max_c softmax(student).
            `constant`: no weights; every temperature is `base`.
        base: the temperature of a sample with the mean weight.
        beta: how far the weights move the temperature.
        gamma: the exponent of `flsw`.
        normalize: what the weights of the batch are divided by: their L2 norm (`l2`), their mean (`mean`) or nothing
            (`none`).
        floor: the lowest temperature.
        group: processes that share the batch. Mean and norm are then those of the global batch (ours), so that one
            process with 128 images equals two processes with 64 each.

    Returns:
        [N], without gradient: float64 for float64 logits, else float32.

    Raises:
        ValueError: an unknown kind or normalisation, base or floor not above 0, or shapes that differ or are not
            [N, C].
    """
    check(kind, Dynamic, "kind")
    check(normalize, Normalize, "normalize")
    if not (base > 0 and floor > 0):
        raise ValueError(f"temperatures must be above 0, got base={base} and floor={floor}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student {list(student_logits.shape)} and teacher {list(teacher_logits.shape)} logits differ")
    with torch.no_grad():
        student, teacher = arithmetic(student_logits), arithmetic(teacher_logits)
        if kind == "constant":
            return student.new_full((len(student),), base)
        if kind == "flsw":
            # In float32 the squares of small weights underflow, and so does their norm.
            weights = _one_minus_cosine(student, teacher).double() ** gamma
        else:
            weights = 1 / F.softmax(student, dim=1).amax(dim=1).double()
        statistics = torch.stack([weights.sum(), weights.square().sum(), weights.new_full((), len(weights))])
        if group is not None:
            dist.all_reduce(statistics, group=group)
        total, squares, count = statistics
        mean = total / count
        norm = {"l2": squares.sqrt(), "mean": mean, "none": torch.ones_like(mean)}[normalize]
        # A student that equals its teacher everywhere has only weights of 0. Each temperature is then the base.
        norm = norm.where(norm > 0, torch.inf)
        return (base + beta * (mean / norm - weights / norm)).clamp(min=floor).to(student.dtype)


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    adjust: Adjust = "none",
    epsilon: float = 0.1,
    dynamic: Dynamic = "constant",
    base: float = 4.0,
    beta: float = 40.0,
    gamma: float = 0.5,
    normalize: Normalize = "l2",
    floor: float = 1.0,
    scale: Scale = "sample",
    alpha: float = 0.9,
    label_smoothing: float = 0.0,
    mixed: Mixed | None = None,
    class_weights: Tensor | None = None,
    group: dist.ProcessGroup | None = None,
) -> Distillation:
    """The loss of a method: alpha * kd + (1 - alpha) * ce, with KA on the targets and DTD on the temperature.

    kd is the divergence KL(target_x || student_x), both at temperature T_x, times a squared temperature. The
    temperature depends on the logits as they are, before KA changes the targets. Plain KD (Hinton et al. 2015, arXiv
    1503.02531) is adjust="none" with dynamic="constant". Logits are clamped to +-1e30, so that finite logits always
    give a finite loss.

    kd and the temperatures are those of all rows. ce and KA leave out rows without a label (ours).

    Args:
        student_logits: [N, C], any float type.
        teacher_logits: [N, C], any float type. They get no gradient.
        labels: [N], int64; -1 for none.
        adjust: the kind of KA (`adjust_targets`).
        epsilon: the label smoothing of KA.
        dynamic: the kind of DTD. `dynamic_temperature` explains it, and base, beta, gamma, normalize and floor.
        scale: how the squared temperature multiplies kd.
            `sample`: the mean of T_x^2 * KL_x (ours). The gradients of samples stay comparable.
            `base`: base^2 times the mean of KL_x.
        alpha: the share of kd.
        label_smoothing: acts on ce alone (ours).
        mixed: the second labels, where pictures are mixed.
        class_weights: float [C], acts on ce alone (ours).
        group: processes that share the batch. Temperatures are then those of the global batch. loss, kd and ce stay
            means over the local samples.

    Returns:
        The loss and its parts: float64 for float64 logits, else float32.

    Raises:
        ValueError: an unknown adjust, dynamic, scale or normalize, a temperature not above 0, or shapes that do not
            fit.
    """
    check(scale, Scale, "scale")
    check(adjust, Adjust, "adjust")
    student, teacher = arithmetic(student_logits), arithmetic(teacher_logits.detach())
    temperature = dynamic_temperature(
        student, teacher, kind=dynamic, base=base, beta=beta, gamma=gamma, normalize=normalize, floor=floor, group=group
    )
    wrong = wrong_rows(teacher, labels, mixed)
    each = column(temperature, student)
    log_target = log_targets(teacher, labels, kind=adjust, temperature=each, epsilon=epsilon, wrong=wrong, mixed=mixed)
    log_student = F.log_softmax(student / each, dim=1)
    divergence = (log_target.exp() * (log_target - log_student)).sum(dim=1)
    kd = (temperature**2 * divergence).mean() if scale == "sample" else base**2 * divergence.mean()
    ce = cross_entropy(student, labels, mixed=mixed, label_smoothing=label_smoothing, class_weights=class_weights)
    return {
        "loss": alpha * kd + (1 - alpha) * ce,
        "kd": kd,
        "ce": ce,
        "temperature": temperature,
        "adjusted": mean_over_labeled(wrong.to(kd.dtype), labels) if adjust != "none" else torch.zeros_like(kd),
    }


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of rows [N], and 1 where a row is 0: half the squared distance of the unit rows."""
    # The distance is exactly 0 for equal rows. 1 - cos leaves a rounding error there, which normalisation enlarges.
    # Dividing by the largest entry first keeps the squares from overflowing.
    tiny = torch.finfo(a.dtype).tiny
    a_unit, b_unit = (F.normalize(x / x.abs().amax(dim=1, keepdim=True).clamp(min=tiny), dim=1) for x in (a, b))
    zero = (a == 0).all(dim=1) | (b == 0).all(dim=1)
    return ((a_unit - b_unit).square().sum(dim=1) / 2).masked_fill(zero, 1.0)
