"""Mixup and CutMix on the device, with a draw of its own for every sample.

In: a normalised batch and a partner for each of its pictures. Out: the mixed pictures, and the share that each keeps of
itself. Sources: mixup (arXiv 1710.09412), CutMix (arXiv 1905.04899), both as timm.data.mixup has them in its mode
"elem". The partner is chosen by `compress.training.batch_rows`.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from compress.data.draws import uniform_draws
from compress.recipe import Augment
from compress.system.seeds import stream

_QUANTILES = 4096  # a share is one of so many quantiles of its distribution, so that no draw waits for the host


@dataclass(frozen=True)
class Mixing:
    """What becomes of each picture of a batch.

    Attributes:
        share: float32 [B], the part of itself that a picture keeps.
        cut: bool [B]. Where it is true the rest is a box of the partner (CutMix), else both pictures are averaged
            (mixup).
        box: int64 [B, 4]: top, bottom, left and right. The box is empty without CutMix.
    """

    share: Tensor
    cut: Tensor
    box: Tensor

    def __call__(self, images: Tensor, partners: Tensor) -> Tensor:
        """The mixed pictures: float32 [B, 3, H, W] in channels_last memory, as are both arguments."""
        weight = self.share.masked_fill(self.cut, 1.0).view(-1, 1, 1, 1)
        averaged = torch.lerp(partners, images, weight)
        top, bottom, left, right = self.box.unbind(1)
        inside = _between(top, bottom, images.shape[2])[:, :, None] & _between(left, right, images.shape[3])[:, None, :]
        return torch.where(inside.unsqueeze(1), partners, averaged).contiguous(memory_format=torch.channels_last)


def mixing(rows: Tensor, augment: Augment, height: int, width: int, *, seed: int, epoch: int) -> Mixing:
    """Draws how each sample is mixed: its share from Beta(alpha, alpha), and where its box is.

    With mixup and cutmix each sample gets one or the other, with equal chance. As in timm a box that reaches over the
    border is cut off there, and the share is that of the area.

    Args:
        rows: int64 [B].
        augment: has `mixup` or `cutmix`, or both.
        seed: of the training.
        epoch: the epoch, or the number of the view where the teacher's logits are cached.
    """
    which, quantile, y, x = uniform_draws(rows, seed=stream(seed, "mixing"), epoch=epoch, count=4).unbind(1)
    place = (quantile * _QUANTILES).long()
    both = augment.mixup > 0 and augment.cutmix > 0
    cut = which < 0.5 if both else torch.full_like(which, augment.cutmix > 0, dtype=torch.bool)
    share = _shares(augment.cutmix or augment.mixup, rows.device)[place]
    if both:
        share = share.where(cut, _shares(augment.mixup, rows.device)[place])
    ratio = (1 - share).sqrt() * cut
    top, bottom = _span((y * height).long(), (height * ratio).long(), height)
    left, right = _span((x * width).long(), (width * ratio).long(), width)
    covered = ((bottom - top) * (right - left)).float() / (height * width)
    return Mixing(share.where(~cut, 1 - covered), cut, torch.stack([top, bottom, left, right], dim=1))


def _span(centre: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The first and the last but one place of a part, within 0..size."""
    return (centre - length // 2).clamp(0, size), (centre + (length + 1) // 2).clamp(0, size)


def _between(first: Tensor, last: Tensor, size: int) -> Tensor:
    places = torch.arange(size, device=first.device)
    return (places >= first[:, None]) & (places < last[:, None])


@functools.cache
def _shares(alpha: float, device: torch.device) -> Tensor:
    """The quantiles of Beta(alpha, alpha), float32."""
    quantiles = betaincinv(alpha, alpha, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    return torch.from_numpy(quantiles.astype(np.float32)).to(device)
