"""Modules around the models of a teacher: one that renormalises its images, and an ensemble of several."""

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Renormalized(nn.Module):
    """A model whose weights expect another mean and standard deviation than the images are normalised with."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("scale", scale.view(1, -1, 1, 1))
        self.register_buffer("shift", shift.view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images * self.scale + self.shift)


class Ensemble(nn.Module):
    """Images [N, 3, H, W] to float32 [N, C]: the logarithm of the mean of the members' probabilities.

    Its softmax is that mean. Finite for any finite logits of the members.
    """

    def __init__(self, members: Iterable[nn.Module], pretrained_cfg: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.pretrained_cfg = pretrained_cfg or {}
        """As of a timm model: what its images are normalised with, and the names of its classes."""

    @property
    def num_classes(self) -> int:
        return self.pretrained_cfg["num_classes"]

    def forward(self, images: Tensor) -> Tensor:
        each = torch.stack([F.log_softmax(member(images), dim=1, dtype=torch.float32) for member in self.members])
        return each.logsumexp(dim=0) - math.log(len(self.members))
