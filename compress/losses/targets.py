"""The teacher's targets at a temperature, corrected by Knowledge Adjustment (KA) where they are wrong.

In: logits [N, C] of any float type and labels [N]. Out: probabilities, or their logarithms. The module also has the
checks of logits and temperatures that the other losses share. Source: Wen, Lai, Qian, "Preparing Lessons" (arXiv
1911.07471).
"""

from typing import get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from compress.data.source import NO_LABEL
from compress.losses.labels import Mixed, leading
from compress.recipe.methods import Adjust

# After this clamp differences of logits are finite in float32. So are their squares times T^2 after normalisation.
_LARGEST_LOGIT = 1e30


def adjust_targets(
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    kind: Adjust,
    temperature: float | Tensor = 1.0,
    epsilon: float = 0.1,
    mixed: Mixed | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Knowledge Adjustment: the teacher's probabilities, with its wrong rows corrected.

    A row is wrong when its top class is not the label. A row in which the label ties with the top is right (ours). A
    row of a mixed picture is wrong when its top class is neither of the two labels (ours). A row without a label is
    never wrong (ours).

    Args:
        teacher_logits: [N, C], any float type.
        labels: [N], int64; -1 for none.
        kind: what happens to a wrong row.
            `probability_shift`: the label and the top class swap their probabilities. Of tied tops the first counts
                (ours). Of two labels the one with the larger share is swapped (ours).
            `label_smoothing`: the row becomes (1 - epsilon) * onehot + epsilon / C, where a mixed picture has the
                one-hot rows of both labels by their shares (ours).
            `none`: nothing.
        temperature: a number, or one for each sample [N].
        epsilon: of `label_smoothing`.
        mixed: the second labels, where pictures are mixed.
        group: unused, since no statistic here depends on other samples. It is there for symmetry with
            `dynamic_temperature`.

    Returns:
        Probabilities [N, C]: float64 for float64 logits, else float32. Each row sums to 1.

    Raises:
        ValueError: an unknown kind, a single temperature not above 0, or shapes that do not fit.
    """
    check(kind, Adjust, "kind")
    logits = arithmetic(teacher_logits)
    probabilities = F.softmax(logits / column(temperature, logits), dim=1)
    wrong = wrong_rows(logits, labels, mixed)
    return _mend(probabilities, logits, wrong, labels, kind, epsilon=epsilon, mixed=mixed, logarithms=False)


def log_targets(
    teacher: Tensor,
    labels: Tensor,
    *,
    kind: Adjust,
    temperature: float | Tensor,
    epsilon: float,
    wrong: Tensor,
    mixed: Mixed | None = None,
) -> Tensor:
    """The logarithms of `adjust_targets`. With them the divergence of equal logits is exactly 0.

    Args:
        teacher: [N, C], from `arithmetic`.
        labels: [N], int64; -1 for none.
        kind: of KA, as in `adjust_targets`.
        temperature: from `column`.
        epsilon: of `label_smoothing`. Probabilities of 0 are raised to the smallest normal number, so that their
            logarithms are finite.
        wrong: [N] bool, from `wrong_rows`.
        mixed: the second labels, where pictures are mixed.

    Returns:
        [N, C], of the teacher's dtype.
    """
    rows = F.log_softmax(teacher / temperature, dim=1)
    return _mend(rows, teacher, wrong, labels, kind, epsilon=epsilon, mixed=mixed, logarithms=True)


def wrong_rows(teacher_logits: Tensor, labels: Tensor, mixed: Mixed | None = None) -> Tensor:
    """[N] bool: whether the teacher's top class is not the label, and not the second label either.

    A label whose share is 0 does not count. Raises ValueError unless labels are [N].
    """
    if labels.shape != teacher_logits.shape[:1]:
        raise ValueError(f"labels must be [N] = {list(teacher_logits.shape[:1])}, got {list(labels.shape)}")
    top = teacher_logits.amax(dim=1)

    def below_the_top(of: Tensor) -> Tensor:
        return teacher_logits.gather(1, _column_of(of)).squeeze(1) < top

    wrong = below_the_top(labels)
    if mixed is not None:
        wrong = (wrong | (mixed.share == 0)) & (below_the_top(mixed.labels) | (mixed.share == 1))
    return wrong & (labels != NO_LABEL)


def arithmetic(logits: Tensor) -> Tensor:
    """The logits that the losses compute with: float64 for float64, else float32, clamped to +-1e30.

    Raises:
        ValueError: logits are not [N, C].
    """
    if logits.dim() != 2:
        raise ValueError(f"logits must be [N, C], got {list(logits.shape)}")
    exact = logits if logits.dtype == torch.float64 else logits.float()
    return exact.clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)


def column(temperature: float | Tensor, logits: Tensor) -> Tensor | float:
    """A temperature that divides logits [N, C]: a number as it is, or [N] as a column [N, 1] of their dtype.

    Raises:
        ValueError: a number not above 0, or a tensor that is not [N].
    """
    if not isinstance(temperature, Tensor):
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        return temperature
    if temperature.shape != logits.shape[:1]:
        raise ValueError(f"temperature must be [N] = {list(logits.shape[:1])}, got {list(temperature.shape)}")
    return temperature.to(logits.dtype).unsqueeze(1)


def check(value: str, allowed: object, name: str) -> None:
    """Raises ValueError where the value is not among the choices of a Literal type. name: of the setting."""
    if value not in get_args(allowed):
        raise ValueError(f"{name} must be one of {', '.join(get_args(allowed))}, got {value!r}")


def _mend(
    rows: Tensor,
    logits: Tensor,
    wrong: Tensor,
    labels: Tensor,
    kind: Adjust,
    *,
    epsilon: float,
    mixed: Mixed | None,
    logarithms: bool,
) -> Tensor:
    """Probabilities or their logarithms, with wrong rows corrected."""
    if kind == "none":
        return rows
    if kind == "probability_shift":
        at_label = _column_of(leading(labels, mixed))
        at_top = logits.argmax(dim=1, keepdim=True)  # from the logits: probabilities may tie where logits do not
        label_value, top_value = rows.gather(1, at_label), rows.gather(1, at_top)
        mended = rows.scatter(1, at_label, top_value).scatter(1, at_top, label_value)
    else:
        mended = _smoothed(rows, labels, mixed, epsilon, logarithms)
    return torch.where(wrong.unsqueeze(1), mended, rows)


def _smoothed(rows: Tensor, labels: Tensor, mixed: Mixed | None, epsilon: float, logarithms: bool) -> Tensor:
    """(1 - epsilon) * onehot + epsilon / C for each of the rows, or its logarithms."""

    def value(share: Tensor) -> Tensor:
        probability = (1 - epsilon) * share + epsilon / rows.shape[1]
        return (probability.clamp(min=torch.finfo(rows.dtype).tiny).log() if logarithms else probability).to(rows.dtype)

    whole = torch.ones(len(rows), 1, dtype=torch.float64, device=rows.device)
    spread = value(0 * whole).expand_as(rows)
    if mixed is None:
        return spread.scatter(1, _column_of(labels), value(whole))
    share, twice = mixed.share.double().unsqueeze(1), (labels == mixed.labels).unsqueeze(1)
    first, second = (value(part.where(~twice, whole)) for part in (share, 1 - share))
    return spread.scatter(1, _column_of(labels), first).scatter(1, _column_of(mixed.labels), second)


def _column_of(labels: Tensor) -> Tensor:
    """[N, 1], as gather and scatter take labels. Rows without a label point to class 0, which is not used."""
    return labels.clamp(min=0).unsqueeze(1)
