"""Makes batches from uint8 images on the device, with a separate random draw for every sample.

In: a Dataset, then the rows of each batch. Out: float32 batches. A draw is a hash of (seed, epoch, sample)
(`compress.data.draws`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.data.draws import uniform_draws
from compress.data.erasing import erased
from compress.data.sources import LAYOUTS
from compress.recipe import Augment, Data

_DRAWS = 5  # per sample: crop y, x; flip; area and shape of the resized crop


@dataclass(frozen=True)
class Images:
    """A split on the device.

    Attributes:
        images: uint8 [N, H, W, 3].
        labels: int64 [N].
        mean: float32 [3], of channels in 0..1.
        std: float32 [3], of channels in 0..1.
        unlabeled: rows without a label. They come last, with the label -1.
    """

    images: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor
    unlabeled: int = 0

    @property
    def labeled(self) -> int:
        """Rows with a label."""
        return len(self.labels) - self.unlabeled

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.images.shape[1]

    @property
    def device(self) -> torch.device:
        return self.images.device

    def normalized(self, rows: slice | Tensor) -> Tensor:
        """The rows as float32 [B, 3, H, W] in channels_last memory, without augmentation."""
        return normalize(self.images[rows], self.mean, self.std)

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
        batch = normalize(pixels, self.mean, self.std)
        if augment.scale < 1:
            batch = _resized_crop(batch, draws[:, 3], draws[:, 4], draws[:, 0], draws[:, 1], augment.scale)
        if augment.erase > 0:
            batch = erased(batch, rows, augment, seed=seed, epoch=epoch)
        return batch

    def batches(self, rows: Sequence[Tensor], augment: Augment, *, seed: int, epoch: int) -> Iterator[Tensor]:
        """Batch after batch, augmented. The arguments are those of `augmented`, but with the rows of each batch."""
        return (self.augmented(batch, augment, seed=seed, epoch=epoch) for batch in rows)


def resolve_augment(settings: Data) -> Augment:
    """The augmentation, with the data set's own defaults for crop and flip."""
    layout, given = LAYOUTS[settings.name], settings.augment
    default_crop = 0 if given.scale < 1 else layout.crop
    decided = {
        "crop": default_crop if given.crop is None else given.crop,
        "flip": layout.flip if given.flip is None else given.flip,
    }
    return given.model_copy(update=decided)


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


def normalize(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
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
