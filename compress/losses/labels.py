"""The labels of a batch whose pictures may be mixed, or may have no label.

In: labels [N], and for mixed pictures a second label [N] with the share of the first. Out: cross-entropy, and means
over the rows that have a label. All of it is ours, except mixup's cross-entropy (arXiv 1710.09412) and the weights of
classes.

A row without a label has the label -1. A picture is mixed with one of its own kind, so a row has both labels or none.
"""

from dataclasses import dataclass
from typing import Any

import torch
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


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """The weight of each class by its inverse frequency, so that all classes weigh the same together.

    The mean weight of the images is 1. Source: King and Zeng 2001, "Logistic regression in rare events data", as
    scikit-learn's compute_class_weight("balanced") has it.

    Args:
        labels: int64 [N], of all images to train on; -1 for none.

    Returns:
        float32 [num_classes], on the device of the labels; 0 for a class without an image.
    """
    labels = labels[labels != NO_LABEL]
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1).double())
    return weights.where(present, 0.0).float()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    mixed: Mixed | None = None,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The mean cross-entropy over the rows that have a label, each times the weight of its class.

    A mixed row has that of both labels by their shares, which is the cross-entropy with the mixed one-hot rows. The sum
    is divided by the number of rows and not by their weights, as torch does it (ours): the mean over several processes,
    or over parts of a batch, then equals that of the whole batch.

    Args:
        logits: [N, C].
        labels: int64 [N]; -1 for none.
        label_smoothing: acts on each label.
        class_weights: float [C]. None: all are 1.
    """
    if mixed is None and class_weights is None:
        return F.cross_entropy(logits, labels, ignore_index=NO_LABEL, label_smoothing=label_smoothing)

    def each(of: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, of, ignore_index=NO_LABEL, label_smoothing=label_smoothing, reduction="none")
        return losses if class_weights is None else class_weights[of].to(losses.dtype) * losses

    losses = each(labels) if mixed is None else blended(each(labels), each(mixed.labels), mixed)
    return mean_over_labeled(losses, labels)
