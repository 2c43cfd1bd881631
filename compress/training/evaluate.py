"""Evaluates a model on a split that is on the device.

In: a model and images. Out: logits, and from them the accuracy. The model is in eval mode meanwhile; afterwards each of
its modules is back in its own mode.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data.augment import Images
from compress.distributed.agreement import Agreement
from compress.distributed.world import current
from compress.system.modules import evaluating

_BATCH = 512
_PIXELS = _BATCH * 64 * 64  # larger images come in smaller batches, so that a pass needs no more memory than training


@dataclass(frozen=True)
class Accuracy:
    """Fractions from 0 to 1.

    Attributes:
        top1: the part of the images whose top class is their label.
        balanced_top1: the mean of that over classes. Classes without images do not count.
    """

    top1: float
    balanced_top1: float


def images_of_a_pass(pixels: int) -> int:
    """How many images of so many pixels each go through a model at once where nothing is trained."""
    return max(1, min(_BATCH, _PIXELS // pixels))


def logits_of(
    model: nn.Module, images: Images, *, precision: str = "fp32", interrupted: Agreement | None = None
) -> Tensor:
    """The model's logits for every image of the split, in order.

    Several processes take the batches in turns. The batches are those of a single process. Every process returns all
    logits.

    Args:
        precision: "bf16" computes in bfloat16 by autocast, anything else in float32.
        interrupted: is asked between batches.

    Returns:
        float32 [N, C], on the device of the images.

    Raises:
        Interrupted: a signal arrived.
    """
    world = current()
    device = images.device
    outputs = []
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with evaluating(model), torch.inference_mode(), bf16:
        size = images_of_a_pass(images.images.shape[1] * images.images.shape[2])
        starts = range(0, len(images.labels), size)
        for turn in range(world.rank, len(starts) + world.rank, world.size):
            if interrupted is not None:
                interrupted.raise_if_set()
            # In the last turn some processes repeat the last batch. The surplus is cut off below.
            start = starts[min(turn, len(starts) - 1)]
            outputs.append(model(images.normalized(slice(start, start + size))).float())
    logits = torch.cat(outputs)
    if world.size == 1:
        return logits
    full = F.pad(logits, (0, 0, 0, len(outputs) * size - len(logits)))
    by_turn = world.gathered(full).unflatten(0, (world.size, len(outputs), size)).transpose(0, 1)
    return by_turn.flatten(0, 2)[: len(images.labels)]


def accuracy(logits: Tensor, labels: Tensor) -> Accuracy:
    """The accuracy of logits [N, C] for labels int64 [N], both on one device."""
    correct = (logits.argmax(dim=1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    hits = torch.zeros_like(counts, dtype=torch.float64).index_add_(0, labels, correct)
    present = counts > 0
    return Accuracy(
        top1=correct.mean().item(),
        balanced_top1=(hits[present] / counts[present]).mean().item(),
    )
