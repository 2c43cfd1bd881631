"""Accuracy of a model on a split that stays on the device. The model is in eval mode meanwhile, and back after."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.augment import Images
from compress.distributed.world import Agreement, current

BATCH = 512
PIXELS = BATCH * 64 * 64  # larger images come in smaller batches, lest memory that holds training is too small here


@dataclass(frozen=True)
class Accuracy:
    """Fractions. balanced_top1 is the mean of the classes' own accuracies, over the classes that have images."""

    top1: float
    balanced_top1: float


def logits_of(
    model: nn.Module, images: Images, *, precision: str = "fp32", interrupted: Agreement | None = None
) -> Tensor:
    """float32 [N, C]: the model's logits for every image of the split, in order. Raises Interrupted between batches.

    Several processes take the batches in turns, each the very batches that one process has, and all return all logits.
    """
    world = current()
    device = images.images.device
    was_training = model.training
    model.eval()
    outputs = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        size = max(1, min(BATCH, PIXELS // (images.images.shape[1] * images.images.shape[2])))
        starts = range(0, len(images.labels), size)
        for turn in range(world.rank, len(starts) + world.rank, world.size):
            if interrupted is not None:
                interrupted.raise_if_set()
            start = starts[min(turn, len(starts) - 1)]  # in the last turn some may have nothing left: cut off below
            outputs.append(model(images.normalized(slice(start, start + size))).float())
    model.train(was_training)
    logits = torch.cat(outputs)
    if world.size == 1:
        return logits
    full = F.pad(logits, (0, 0, 0, len(outputs) * size - len(logits)))
    by_turn = world.gathered(full).unflatten(0, (world.size, len(outputs), size)).transpose(0, 1)
    return by_turn.flatten(0, 2)[: len(images.labels)]


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
