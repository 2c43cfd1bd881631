"""Knowledge distillation (KD), Knowledge Adjustment (KA) and Dynamic Temperature Distillation (DTD).

Pure functions of logits [N, C] and labels [N]. KA mends targets of the teacher that are wrong, DTD gives every sample
a temperature of its own. Source: Wen, Lai, Qian, "Preparing Lessons" (arXiv 1911.07471); what is our own says "ours".
"""

import math
from typing import Literal, TypedDict, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from compress.methods import Adjust, Dynamic

Normalize = Literal["l2", "mean", "none"]
Scale = Literal["sample", "base"]

# Differences of logits stay finite in float32 after this clamp, and so do their squares times T^2 once normalised.
_LARGEST_LOGIT = 1e30


class Distillation(TypedDict):
    """What distillation_loss returns: three scalars, a temperature [N] and a fraction."""

    loss: Tensor
    kd: Tensor
    ce: Tensor
    temperature: Tensor
    adjusted: Tensor


def adjust_targets(
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    kind: Adjust,
    temperature: float | Tensor = 1.0,
    epsilon: float = 0.1,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Knowledge Adjustment: the teacher's probabilities [N, C], with the wrong rows mended.

    A row is wrong when its top class is not the label; a tie with the label is right (ours).
    `probability_shift` swaps the label's probability with the top one; of tied tops the first is taken (ours).
    `label_smoothing` replaces the row by (1 - epsilon) * onehot + epsilon / C.

    teacher_logits: [N, C], any float. labels: [N], int64. temperature: a number, or one for each sample [N].
    group is accepted for symmetry: no statistic here depends on other samples.
    Returns float32 (float64 for float64 logits), rows sum to 1. Raises ValueError for an unknown kind.
    """
    _check(kind, Adjust, "kind")
    logits = _arithmetic(teacher_logits)
    probabilities = F.softmax(logits / _column(temperature, logits), dim=1)
    off = epsilon / logits.shape[1]
    return _mend(probabilities, logits, _wrong_rows(logits, labels), labels, kind, on=1 - epsilon + off, off=off)


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
    _check(kind, Dynamic, "kind")
    _check(normalize, Normalize, "normalize")
    if not (base > 0 and floor > 0):
        raise ValueError(f"temperatures must be above 0, got base={base} and floor={floor}")
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(f"student {list(student_logits.shape)} and teacher {list(teacher_logits.shape)} logits differ")
    with torch.no_grad():
        student, teacher = _arithmetic(student_logits), _arithmetic(teacher_logits)
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
    _check(scale, Scale, "scale")
    _check(adjust, Adjust, "adjust")
    student, teacher = _arithmetic(student_logits), _arithmetic(teacher_logits.detach())
    temperature = dynamic_temperature(
        student, teacher, kind=dynamic, base=base, beta=beta, gamma=gamma, normalize=normalize, floor=floor, group=group
    )
    wrong = _wrong_rows(teacher, labels)
    column = temperature.unsqueeze(1)
    # In log-probabilities, so that the divergence of equal logits is exactly 0.
    off = max(epsilon / teacher.shape[1], torch.finfo(teacher.dtype).tiny)
    log_target = F.log_softmax(teacher / column, dim=1)
    on = 1 - epsilon + epsilon / teacher.shape[1]
    log_target = _mend(log_target, teacher, wrong, labels, adjust, on=math.log(on), off=math.log(off))
    log_student = F.log_softmax(student / column, dim=1)
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


def _mend(
    rows: Tensor, logits: Tensor, wrong: Tensor, labels: Tensor, kind: Adjust, *, on: float, off: float
) -> Tensor:
    """The teacher's probabilities, or their logarithms, with wrong rows mended; on and off are the smoothed values."""
    if kind == "none":
        return rows
    at_label = labels.unsqueeze(1)
    if kind == "probability_shift":
        at_top = logits.argmax(dim=1, keepdim=True)  # of the logits: probabilities may tie where these do not
        label_value, top_value = rows.gather(1, at_label), rows.gather(1, at_top)
        mended = rows.scatter(1, at_label, top_value).scatter(1, at_top, label_value)
    else:
        mended = torch.full_like(rows, off).scatter(1, at_label, on)
    return torch.where(wrong.unsqueeze(1), mended, rows)


def _wrong_rows(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """[N] bool: the teacher's top class is not the label."""
    if labels.shape != teacher_logits.shape[:1]:
        raise ValueError(f"labels must be [N] = {list(teacher_logits.shape[:1])}, got {list(labels.shape)}")
    return teacher_logits.gather(1, labels.unsqueeze(1)).squeeze(1) < teacher_logits.amax(dim=1)


def _one_minus_cosine(a: Tensor, b: Tensor) -> Tensor:
    """1 - cosine of rows [N], 1 where a row is 0, as half the squared distance of the unit rows.

    That is exactly 0 for equal rows, where 1 - cos leaves a rounding error for the normalisation to blow up. Rows are
    first scaled by their largest entry, so that squares cannot overflow.
    """
    tiny = torch.finfo(a.dtype).tiny
    a_unit, b_unit = (F.normalize(x / x.abs().amax(dim=1, keepdim=True).clamp(min=tiny), dim=1) for x in (a, b))
    zero = (a == 0).all(dim=1) | (b == 0).all(dim=1)
    return ((a_unit - b_unit).square().sum(dim=1) / 2).masked_fill(zero, 1.0)


def _arithmetic(logits: Tensor) -> Tensor:
    """float32 or float64 logits of bounded size, from any float type."""
    if logits.dim() != 2:
        raise ValueError(f"logits must be [N, C], got {list(logits.shape)}")
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def _column(temperature: float | Tensor, logits: Tensor) -> Tensor | float:
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        return temperature
    if temperature.shape != logits.shape[:1]:
        raise ValueError(f"temperature must be [N] = {list(logits.shape[:1])}, got {list(temperature.shape)}")
    return temperature.to(logits.dtype).unsqueeze(1)


def _check(value: str, allowed: object, name: str) -> None:
    if value not in get_args(allowed):
        raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")
