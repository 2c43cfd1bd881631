"""Knowledge distillation (KD), Knowledge Adjustment (KA) and Dynamic Temperature Distillation (DTD).

Pure functions of logits [N, C] and labels [N]. KA mends targets of the teacher that are wrong, DTD gives every sample
a temperature of its own. Source: Wen, Lai, Qian, "Preparing Lessons" (arXiv 1911.07471); what is our own says "ours".
"""

from dataclasses import dataclass
from typing import Literal, TypedDict

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from compress.losses.targets import arithmetic, check, column, log_targets, wrong_rows
from compress.recipe.methods import Adjust, Dynamic

Normalize = Literal["l2", "mean", "none"]
Scale = Literal["sample", "base"]


@dataclass(frozen=True)
class DistillationSettings:
    """What a method asks of distillation_loss: its arguments of the same names, with the same defaults."""

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
    """What distillation_loss returns: three scalars, a temperature [N] and a fraction."""

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
    """Dynamic Temperature Distillation: T_x = max(floor, base + beta * (mean_j w_j - w_x)), [N], without gradient.

    `flsw`: w = (1 - cos(student, teacher))^gamma. `cwsm`: w = 1 / max_c softmax(student). `constant`: base for all.
    The weights are normalised over the batch (`l2`, `mean`; `none` leaves them). With a process group, mean and norm
    are those of the global batch (ours), so that 1 x 128 equals 2 x 64. The floor is ours.

    Returns float32 (float64 for float64 logits). Raises ValueError for an unknown kind and for base or floor <= 0.
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
            # float64: the squares of small weights underflow in float32, and the norm with them.
            weights = _one_minus_cosine(student, teacher).double() ** gamma
        else:
            weights = 1 / F.softmax(student, dim=1).amax(dim=1).double()
        statistics = torch.stack([weights.sum(), weights.square().sum(), weights.new_tensor(float(len(weights)))])
        if group is not None:
            dist.all_reduce(statistics, group=group)
        total, squares, count = statistics
        mean = total / count
        norm = {"l2": squares.sqrt(), "mean": mean, "none": torch.ones_like(mean)}[normalize]
        # All weights are 0 where the student equals its teacher everywhere: each temperature is then the base.
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
    group: dist.ProcessGroup | None = None,
) -> Distillation:
    """loss = alpha * kd + (1 - alpha) * ce, with KA on the targets and DTD on the temperature.

    kd is the batch mean of T_x^2 * KL(target_x || student_x), both at temperature T_x (`scale="sample"`, ours: it keeps
    the gradients of samples comparable), or base^2 times the mean KL (`scale="base"`). With KA and DTD together the
    temperature comes first. Plain KD (Hinton 2015) is adjust="none", dynamic="constant".
    label_smoothing (ours) acts on ce alone. With a process group the temperatures are those of the global batch; loss,
    kd and ce stay means over the local samples.

    Logits are clamped to +-1e30, so that the loss is finite for any finite logits. No gradient reaches the teacher.
    """
    check(scale, Scale, "scale")
    check(adjust, Adjust, "adjust")
    student, teacher = arithmetic(student_logits), arithmetic(teacher_logits.detach())
    temperature = dynamic_temperature(
        student, teacher, kind=dynamic, base=base, beta=beta, gamma=gamma, normalize=normalize, floor=floor, group=group
    )
    wrong = wrong_rows(teacher, labels)
    each = column(temperature, student)
    log_target = log_targets(teacher, labels, kind=adjust, temperature=each, epsilon=epsilon, wrong=wrong)
    log_student = F.log_softmax(student / each, dim=1)
    divergence = (log_target.exp() * (log_target - log_student)).sum(dim=1)
    kd = (temperature**2 * divergence).mean() if scale == "sample" else base**2 * divergence.mean()
    ce = F.cross_entropy(student, labels, label_smoothing=label_smoothing)
    return {
        "loss": alpha * kd + (1 - alpha) * ce,
        "kd": kd,
        "ce": ce,
        "temperature": temperature,
        "adjusted": wrong.to(kd.dtype).mean() if adjust != "none" else torch.zeros_like(kd),
    }


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of rows [N], 1 where a row is 0, as half the squared distance of the unit rows.

    That is exactly 0 for equal rows, where 1 - cos leaves a rounding error for the normalisation to blow up. Rows are
    first scaled by their largest entry, so that squares cannot overflow.
    """
    tiny = torch.finfo(a.dtype).tiny
    a_unit, b_unit = (F.normalize(x / x.abs().amax(dim=1, keepdim=True).clamp(min=tiny), dim=1) for x in (a, b))
    zero = (a == 0).all(dim=1) | (b == 0).all(dim=1)
    return ((a_unit - b_unit).square().sum(dim=1) / 2).masked_fill(zero, 1.0)
