"""Accuracy of a model on a split that stays on the device. The model is in eval mode meanwhile, and back after."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.augment import Images
from compress.interrupts import Flag

BATCH = 512
PIXELS = BATCH * 64 * 64  # larger images come in smaller batches, lest memory that holds training is too small here


@dataclass(frozen=True)
class Accuracy:
    """Fractions. balanced_top1 is the mean of the classes' own accuracies, over the classes that have images."""

    top1: float
    balanced_top1: float


def logits_of(model: nn.Module, images: Images, *, precision: str = "fp32", interrupted: Flag | None = None) -> Tensor:
    """float32 [N, C]: the model's logits for every image of the split, in order. Raises Interrupted between batches."""
    device = images.images.device
    was_training = model.training
    model.eval()
    outputs = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        size = max(1, min(BATCH, PIXELS // (images.images.shape[1] * images.images.shape[2])))
        for start in range(0, len(images.labels), size):
            if interrupted is not None:
                interrupted.raise_if_set()
            outputs.append(model(images.normalized(slice(start, start + size))).float())
    model.train(was_training)
    return torch.cat(outputs)


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """logits [N, C] and labels [N] on one device."""
    correct = (logits.argmax(dim=1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.zeros_like(counts, dtype=torch.float64).index_add_(0, labels, correct)
    present = counts > 0
    return Accuracy(
        top1=correct.mean().item(),
        balanced_top1=(hits[present] / counts[present]).mean().item(),
    )
