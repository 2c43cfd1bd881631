"""Modules around other models: one that adapts images, and an ensemble.

In: models. Out: a module that maps images [N, 3, H, W] to logits [N, C].
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Adapted(nn.Module):
    """A model whose weights expect another mean, standard deviation or size than those of the images.

    Args:
        scale: [3], the images' std divided by the model's std.
        shift: [3], (images' mean - model's mean) / model's std.
        image_size: pixels a side to which images are resized (bicubic, antialiased); None leaves their size.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor, image_size: int | None = None) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.image_size is not None and images.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            resized = F.interpolate(images.float(), size, mode="bicubic", align_corners=False, antialias=True)
            images = resized.to(images.dtype, memory_format=torch.channels_last)
        return self.model(images * self.scale + self.shift)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model whose module names the user knows: without an Adapted around it."""
    return unwrapped(model.model) if isinstance(model, Adapted) else model


class Ensemble(nn.Module):
    """Several models as one. Maps images [N, 3, H, W] to logits [N, C], float32.

    The logits are the logarithm of the mean of the members' probabilities (ours). Their softmax is that mean. Finite
    logits of the members give finite logits.

    Args:
        pretrained_cfg: as of a timm model: how its images are normalised, and the names of its classes.
    """

    def __init__(self, members: Iterable[nn.Module], pretrained_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.pretrained_cfg = pretrained_cfg or {}

    @property
    def num_classes(self) -> int:
        return self.pretrained_cfg["num_classes"]

    def forward(self, images: Tensor) -> Tensor:
        each = torch.stack([F.log_softmax(member(images), dim=1, dtype=torch.float32) for member in self.members])
        return each.logsumexp(dim=0) - math.log(len(self.members))
