"""Cross-entropy with labels, and the weights of classes that are not equally frequent.

In: logits [N, C] and labels [N]. Out: the mean loss of the batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """The weight of each class by its inverse frequency, so that all classes weigh the same together.

    The mean weight of the images is 1. Source: King and Zeng 2001, "Logistic regression in rare events data", as
    scikit-learn's compute_class_weight("balanced") has it.

    Args:
        labels: int64 [N], of all images to train on.

    Returns:
        float32 [num_classes], on the device of the labels; 0 for a class without an image.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = len(labels) / (present.sum() * counts.clamp(min=1).double())
    return weights.where(present, 0.0).float()


def cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """The mean cross-entropy of the rows, each times the weight of its class.

    It is divided by the number of rows and not by their weights, as torch does it (ours): the mean over several
    processes, or over parts of a batch, then equals that of the whole batch.

    Args:
        logits: [N, C].
        labels: int64 [N].
        class_weights: float [C]. None: all are 1.
    """
    if class_weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    each = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    return (class_weights[labels].to(each.dtype) * each).mean()
