"""Random erasing on the device, as timm has it (Zhong et al. 2017, arXiv 1708.04896).

In: a normalised batch. Out: the same with a rectangle of some pictures filled.
"""

import functools
import math

import torch
from torch import Tensor

from compress.data.draws import uniform_draws
from compress.recipe import Augment
from compress.system.seeds import stream

_ATTEMPTS = 10  # of a rectangle that fits, as in timm
_SMALLEST, _LARGEST = 0.02, 1 / 3  # area, as a part of the picture's
_RATIO = 0.3  # height to width, and the reverse
_NUMBERS = 1 << 20  # of which the noise of a sample is a part, at least


def erased(batch: Tensor, rows: Tensor, augment: Augment, *, seed: int, epoch: int) -> Tensor:
    """The batch with erased rectangles. Each is drawn for its sample alone.

    Args:
        batch: float32 [B, 3, H, W] in channels_last memory, normalised.
        rows: int64 [B].
        augment: has the probability `erase`, and in `erase_mode` what fills a rectangle. `const` is the mean colour,
            `rand` a colour from a normal distribution, `pixel` one for each pixel.
        seed: of the training.
        epoch: the epoch, or the number of the view where the teacher's logits are cached.
    """
    height, width = batch.shape[2:]
    draws = uniform_draws(rows, seed=stream(seed, "erasing"), epoch=epoch, count=2 * _ATTEMPTS + 7)
    areas, ratios, (whether, y, x, start, *colour) = draws[:, :10], draws[:, 10:20], draws[:, 20:].unbind(1)
    area = (_SMALLEST + areas * (_LARGEST - _SMALLEST)) * (height * width)
    ratio = torch.exp((1 - 2 * ratios) * math.log(_RATIO))
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.float().argmax(dim=1, keepdim=True)
    wanted = (whether < augment.erase) & fits.any(dim=1)
    down = _span(y, heights.gather(1, first), height)
    right = _span(x, widths.gather(1, first), width)
    hit = (down[:, :, None] & right[:, None, :] & wanted[:, None, None]).unsqueeze(1)
    if augment.erase_mode == "const":
        return torch.where(hit, 0.0, batch)  # masked_fill would lose the memory format
    fill = _normal(torch.stack(colour, dim=1)).view(-1, 3, 1, 1)
    if augment.erase_mode == "pixel":
        fill = _noise(start, height, width)
    return torch.where(hit, fill, batch)


def _span(place: Tensor, length: Tensor, size: int) -> Tensor:
    """bool [B, size]: the places of a part of length [B, 1], which starts at a random one."""
    first = (place.unsqueeze(1) * (size - length + 1)).floor()
    places = torch.arange(size, device=place.device)
    return (places >= first) & (places < first + length)


def _normal(uniform: Tensor) -> Tensor:
    """Numbers with a standard normal distribution, from uniform ones in [0, 1) that have 24 bits."""
    return torch.special.ndtri(uniform.double() + 2.0**-25).float()


def _noise(place: Tensor, height: int, width: int) -> Tensor:
    """[B, 3, H, W]: normal noise for each sample, which is a part of the same long row of numbers."""
    count = 3 * height * width
    parts = _normal_numbers(max(2 * count, _NUMBERS), place.device).unfold(0, count, 1)
    return parts[(place * len(parts)).long()].view(-1, height, width, 3).permute(0, 3, 1, 2)


@functools.cache
def _normal_numbers(count: int, device: torch.device) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0)).to(device)
