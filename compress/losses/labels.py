"""The labels of a batch whose pictures may be mixed, or may have no label.

In: labels [N], and for mixed pictures a second label [N] with the share of the first. Out: cross-entropy, and means
over the rows that have a label. All of it is ours, except mixup's cross-entropy (arXiv 1710.09412).

A row without a label has the label -1. A picture is mixed with one of its own kind, so a row has both labels or none.
"""

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from compress.data.source import NO_LABEL


@dataclass(frozen=True)
class Mixed:
    """What a batch of mixed pictures has beside its labels.

    Attributes:
        labels: int64 [N], of the pictures that were mixed in.
        share: float [N] in 0..1, of the first label. At 1 the picture is not mixed, and all losses are those of the
            first label alone.
    """

    labels: Tensor
    share: Tensor

    def each(self, change: Any) -> "Mixed":
        """The same with `change` applied to both tensors."""
        return Mixed(change(self.labels), change(self.share))


def leading(labels: Tensor, mixed: Mixed | None) -> Tensor:
    """int64 [N]: the label with the larger share. Of equal shares the first counts."""
    return labels if mixed is None else labels.where(mixed.share >= 0.5, mixed.labels)


def share_right(logits: Tensor, labels: Tensor, mixed: Mixed | None) -> Tensor:
    """The part of the rows with a label whose top class is that label, or the leading one of two: a scalar."""
    return mean_over_labeled((logits.argmax(dim=1) == leading(labels, mixed)).float(), labels)


def mean_over_labeled(values: Tensor, labels: Tensor) -> Tensor:
    """The mean of values [N] over the rows that have a label: a scalar, NaN where none has."""
    known = labels != NO_LABEL
    return values.where(known, 0.0).sum() / known.sum()


def blended(first: Tensor, second: Tensor, mixed: Mixed) -> Tensor:
    """share * first + (1 - share) * second: values [N] for the two labels of each row."""
    share = mixed.share.to(first.dtype)
    return share * first + (1 - share) * second


def cross_entropy(
    logits: Tensor, labels: Tensor, *, mixed: Mixed | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """The mean cross-entropy over the rows that have a label.

    A mixed row has that of both labels by their shares, which is the cross-entropy with the mixed one-hot rows.

    Args:
        logits: [N, C].
        labels: int64 [N]; -1 for none.
        label_smoothing: acts on each label.
    """
    options = {"ignore_index": NO_LABEL, "label_smoothing": label_smoothing}
    if mixed is None:
        return F.cross_entropy(logits, labels, **options)
    first, second = (F.cross_entropy(logits, each, reduction="none", **options) for each in (labels, mixed.labels))
    return mean_over_labeled(blended(first, second, mixed), labels)
