"""Modules around other models: one that renormalises images, and an ensemble.

In: models. Out: a module that maps images [N, 3, H, W] to logits [N, C].
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Renormalized(nn.Module):
    """A model whose weights expect another mean and standard deviation than those of the images.

    Args:
        scale: [3], the images' std divided by the model's std.
        shift: [3], (images' mean - model's mean) / model's std.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * self.scale + self.shift)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model whose module names the user knows: without a Renormalized around it."""
    return unwrapped(model.model) if isinstance(model, Renormalized) else model


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
