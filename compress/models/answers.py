"""A hash of what a model says, for modules whose code cannot be hashed.

In: a module. Out: a hash of its logits for a few images of noise.
"""

import copy
import hashlib

import torch
from torch import Tensor, nn

from compress.system.attempts import attempting
from compress.system.errors import UsageError
from compress.system.modules import evaluating

_IMAGES = 4
_STEPS = 1e4
"""Logits are rounded to this part of the largest, so that the hash is the same with more threads or on a GPU."""


def answers_hash(model: nn.Module, image_size: int) -> str:
    """SHA-256 of the model's rounded outputs for noise. Two modules with equal weights and another forward differ.

    It is computed on the CPU in float64 where the module runs so, and else in float32.

    Args:
        model: maps float32 images [N, 3, H, W] to logits [N, C].
        image_size: pixels a side.

    Raises:
        UsageError: the module does not run in float32 either.
    """
    images = torch.randn(_IMAGES, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    plain = copy.deepcopy(model).cpu()
    try:
        logits = _logits(plain.double(), images.double())
    except Exception:  # noqa: BLE001 - a part of it is float32 whatever it is told, or it refuses other numbers
        hint = "On the CPU and in eval mode it must take float32 images [N, 3, H, W]."
        with attempting(f"running the module {type(model).__name__}", hint=hint, kind=UsageError):
            logits = _logits(copy.deepcopy(model).cpu().float(), images)
    rounded = (logits / logits.abs().amax().clamp(min=torch.finfo(logits.dtype).tiny) * _STEPS).round().long()
    return hashlib.sha256(rounded.numpy().tobytes()).hexdigest()


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return model(images).double()
