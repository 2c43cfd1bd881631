"""Makes batches from uint8 images on the device, with a separate random draw for every sample.

In: a Dataset, then the rows of each batch. Out: float32 batches. A draw is a hash of (seed, epoch, sample). It depends
neither on the order of the batches nor on the number of processes, and a resumed run gets the same draws.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from compress.data.dataset import Dataset
from compress.recipe import Augment

_MASK_34 = (1 << 34) - 1
_DRAWS = 8  # per sample: crop y, x; flip; area and shape of the resized crop; erase or not, y, x


@dataclass(frozen=True)
class Images:
    """A split on the device.

    Attributes:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        mean: float32 [3], of channels in 0..1.
        std: float32 [3], of channels in 0..1.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def normalized(self, rows: slice | Tensor) -> Tensor:
        """The rows as float32 [B, 3, H, W] in channels_last memory, without augmentation."""
        return _normalize(self.images[rows], self.mean, self.std)

    def augmented(self, rows: Tensor, augment: Augment, *, seed: int, epoch: int) -> Tensor:
        """The rows as an augmented batch.

        Args:
            rows: int64 [B].
            augment: resolved (`compress.data.resolve_augment`).
            seed: of the training.
            epoch: the epoch, or the number of the view where the teacher's logits are cached.

        Returns:
            float32 [B, 3, H, W] in channels_last memory.
        """
        draws = uniform_draws(rows, seed=seed, epoch=epoch, count=_DRAWS)
        pixels = _crop_and_flip(self.images, rows, draws, augment.crop or 0, bool(augment.flip))
        batch = _normalize(pixels, self.mean, self.std)
        if augment.scale < 1:
            batch = _resized_crop(batch, draws[:, 3], draws[:, 4], draws[:, 0], draws[:, 1], augment.scale)
        if augment.erase > 0:
            batch = _erase(batch, draws[:, 5], draws[:, 6], draws[:, 7], augment.erase)
        return batch


@dataclass(frozen=True)
class Splits:
    """The split to train on and the split to evaluate on."""

    train: Images
    evaluation: Images


def on_device(dataset: Dataset, device: torch.device) -> Splits:
    """Both splits as uint8 on the device, where they stay. On a CPU they share the memory-mapped cache."""
    mean, std = (torch.tensor(values, device=device) for values in (dataset.mean, dataset.std))

    def images(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> Images:
        return Images(torch.from_numpy(pixels).to(device), torch.from_numpy(labels).to(device), mean, std)

    return Splits(
        train=images(dataset.train_images, dataset.train_labels),
        evaluation=images(dataset.eval_images, dataset.eval_labels),
    )


def uniform_draws(rows: Tensor, *, seed: int, epoch: int, count: int) -> Tensor:
    """Random numbers that depend on (seed, epoch, row) alone.

    Source: SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").

    Args:
        rows: int64 [B].
        count: numbers for each row, at most 8.

    Returns:
        float32 [B, count] in [0, 1).
    """
    key = _mix(rows.new_full((1,), seed) * 0x9E3779B97F4A7C1 + epoch)  # new_tensor would be a copy from the host
    counters = rows.unsqueeze(1) * _DRAWS + torch.arange(count, device=rows.device)
    return (_mix(_mix(counters) ^ key) & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64: products wrap around, and masks make the shifts logical."""
    x = (x + -7046029254386353131) ^ (((x + -7046029254386353131) >> 30) & _MASK_34)
    x = x * -4658895280553007687
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _crop_and_flip(images: Tensor, rows: Tensor, draws: Tensor, padding: int, flip: bool) -> Tensor:
    """uint8 [B, H, W, 3]: each sample shifted by up to `padding` pixels over black, and perhaps mirrored."""
    if not padding and not flip:
        return images[rows]
    height, width = images.shape[1:3]
    down = torch.arange(height, device=images.device).expand(len(rows), -1)
    right = torch.arange(width, device=images.device).expand(len(rows), -1)
    if flip:
        right = torch.where(draws[:, 2:3] < 0.5, width - 1 - right, right)
    if not padding:
        return _pixels(images, rows, down, right)
    shift = (draws[:, :2] * (2 * padding + 1)).long() - padding
    down, right = down + shift[:, 0:1], right + shift[:, 1:2]
    pixels = _pixels(images, rows, down.clamp(0, height - 1), right.clamp(0, width - 1))
    inside = ((down >= 0) & (down < height))[:, :, None] & ((right >= 0) & (right < width))[:, None, :]
    return pixels * inside.unsqueeze(3)


def _pixels(images: Tensor, rows: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """[B, h, w, 3]: the pixels of row b at down [B, h] and right [B, w]. A single flat index is the fastest."""
    height, width = images.shape[1:3]
    places = ((rows * height)[:, None] + down)[:, :, None] * width + right[:, None, :]
    chosen = images.view(-1, 3).index_select(0, places.flatten())
    return chosen.view(*places.shape, 3)


def _normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return torch.addcmul(-mean / std, pixels, 1 / (255 * std)).permute(0, 3, 1, 2)


def _resized_crop(batch: Tensor, area: Tensor, shape: Tensor, y: Tensor, x: Tensor, smallest: float) -> Tensor:
    """A random part of each image (area in [smallest, 1], side ratio in [3/4, 4/3]), resized to the whole."""
    area = smallest + area * (1 - smallest)
    ratio = (4 / 3) ** (2 * shape - 1)
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    zero = torch.zeros_like(area)
    centre_x, centre_y = (2 * x - 1) * (1 - width), (2 * y - 1) * (1 - height)
    theta = torch.stack([width, zero, centre_x, zero, height, centre_y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(batch.shape), align_corners=False)
    sampled = F.grid_sample(batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.contiguous(memory_format=torch.channels_last)


def _erase(batch: Tensor, whether: Tensor, y: Tensor, x: Tensor, probability: float) -> Tensor:
    """In some images sets a square of a quarter of the area to the mean colour (after Zhong et al. 2017)."""
    height, width = batch.shape[2:]
    down, right = (
        ((torch.arange(size, device=batch.device) - (place * (size // 2 + 1)).long()[:, None]).clamp(min=-1) + 1)
        for size, place in ((height, y), (width, x))
    )
    hit_y, hit_x = (down > 0) & (down <= height // 2), (right > 0) & (right <= width // 2)
    erased = hit_y[:, :, None] & hit_x[:, None, :] & (whether < probability)[:, None, None]
    return batch.masked_fill(erased.unsqueeze(1), 0.0)
