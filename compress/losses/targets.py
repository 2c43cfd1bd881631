"""The teacher's targets at a temperature, with Knowledge Adjustment (KA) where they are wrong, and what checks logits.

Logits are [N, C] of any float type and labels [N]. Source: Wen, Lai, Qian, "Preparing Lessons" (arXiv 1911.07471).
"""

import math
from typing import get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from compress.recipe.methods import Adjust

# Differences of logits stay finite in float32 after this clamp, and so do their squares times T^2 once normalised.
_LARGEST_LOGIT = 1e30


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
    check(kind, Adjust, "kind")
    logits = arithmetic(teacher_logits)
    probabilities = F.softmax(logits / column(temperature, logits), dim=1)
    off = epsilon / logits.shape[1]
    return _mend(probabilities, logits, wrong_rows(logits, labels), labels, kind, on=1 - epsilon + off, off=off)


def log_targets(
    teacher: Tensor, labels: Tensor, *, kind: Adjust, temperature: float | Tensor, epsilon: float, wrong: Tensor
) -> Tensor:
    """The logarithms of adjust_targets, so that the divergence of equal logits is exactly 0.

    teacher: what `arithmetic` returned. temperature: what `column` returned. wrong: what `wrong_rows` returned.
    """
    classes = teacher.shape[1]
    off = max(epsilon / classes, torch.finfo(teacher.dtype).tiny)
    on = 1 - epsilon + epsilon / classes
    rows = F.log_softmax(teacher / temperature, dim=1)
    return _mend(rows, teacher, wrong, labels, kind, on=math.log(on), off=math.log(off))


def wrong_rows(teacher_logits: Tensor, labels: Tensor) -> Tensor:
    """[N] bool: the teacher's top class is not the label."""
    if labels.shape != teacher_logits.shape[:1]:
        raise ValueError(f"labels must be [N] = {list(teacher_logits.shape[:1])}, got {list(labels.shape)}")
    return teacher_logits.gather(1, labels.unsqueeze(1)).squeeze(1) < teacher_logits.amax(dim=1)


def arithmetic(logits: Tensor) -> Tensor:
    """float32 or float64 logits of bounded size, from any float type."""
    if logits.dim() != 2:
        raise ValueError(f"logits must be [N, C], got {list(logits.shape)}")
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def column(temperature: float | Tensor, logits: Tensor) -> Tensor | float:
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        return temperature
    if temperature.shape != logits.shape[:1]:
        raise ValueError(f"temperature must be [N] = {list(logits.shape[:1])}, got {list(temperature.shape)}")
    return temperature.to(logits.dtype).unsqueeze(1)


def check(value: str, allowed: object, name: str) -> None:
    if value not in get_args(allowed):
        raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")


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
