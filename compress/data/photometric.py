"""Changes of one picture by timm's and torchvision's transforms: `data.augment.auto` and `color_jitter`.

In: a Pillow image, after crop and flip, and a key. Out: the changed image. The transforms are the libraries' own. They
draw from the generators of `random`, numpy and torch, which are seeded from the key and put back afterwards.
"""

import functools
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from torchvision.transforms import ColorJitter, InterpolationMode, TrivialAugmentWide

from compress.data.preprocessing import FILTERS, Interpolation
from compress.recipe import Augment
from compress.system.errors import MachineError, first_line

Transform = Callable[[Image.Image], Any]
_FOR_WARPS: tuple[Interpolation, ...] = ("nearest", "bilinear", "bicubic")  # Pillow warps with no others


@dataclass(frozen=True)
class Photometric:
    """What `auto` and `color_jitter` do to a picture, in the order and with the settings of timm's create_transform.

    Attributes:
        augment: resolved (`compress.data.resolve_augment`).
        image_size: pixels a side.
        mean: of each channel in 0..1. Warps fill with it what is outside of the picture.
        interpolation: of warps. Those that Pillow has not for warps become bicubic.
    """

    augment: Augment
    image_size: int
    mean: tuple[float, ...]
    interpolation: Interpolation = "bicubic"

    def __call__(self, image: Image.Image, key: int) -> Image.Image:
        """The changed picture, of the same size.

        Args:
            image: RGB.
            key: 64 bits, of (seed, epoch, sample). The result depends on nothing else.
        """
        if not self.augment.per_picture:
            return image
        with _seeded(key):
            try:
                for transform in _transforms(self):
                    image = transform(image)
            except Exception as error:  # the picture is read by now, so it is not to blame
                raise MachineError(
                    f"data.augment failed in a library ({type(error).__name__}: {first_line(error)})",
                    "Choose another data.augment.auto, or none.",
                ) from error
        return image

    def transforms(self) -> list[Transform]:
        """The libraries' transforms, in their order."""
        found: list[Transform] = []
        if self.augment.auto is not None:
            found.append(self._auto(self.augment.auto))
        if self.augment.color_jitter:
            found.append(ColorJitter(*[self.augment.color_jitter] * 3))
        return found

    def _auto(self, config: str) -> Transform:
        warp = self.interpolation if self.interpolation in _FOR_WARPS else "bicubic"
        if config == "trivial":
            return TrivialAugmentWide(interpolation=InterpolationMode(warp))
        hparams = {
            "translate_const": int(self.image_size * 0.45),
            "img_mean": tuple(min(255, round(255 * value)) for value in self.mean),
            "interpolation": FILTERS[warp],
        }
        if config.startswith("rand"):
            transform = rand_augment_transform(config, hparams)
        elif config.startswith("augmix"):
            transform = augment_and_mix_transform(config, {**hparams, "translate_pct": 0.3})
        else:
            transform = auto_augment_transform(config, hparams)
        operations: Any = getattr(transform, "ops", None) or itertools.chain(*getattr(transform, "policy", ()))
        for operation in operations:
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
        return transform


def _posterize(image: Image.Image, bits: int, **settings: Any) -> Image.Image:
    """timm's, which asks for 0 bits at its highest level. Pillow 13 refuses those; before, the picture became black."""
    return auto_augment.posterize(image, bits, **settings) if bits else Image.new(image.mode, image.size)


@functools.lru_cache(maxsize=8)
def _transforms(settings: Photometric) -> list[Transform]:
    """Made once in each worker."""
    return settings.transforms()


@contextmanager
def _seeded(key: int) -> Iterator[None]:
    """The generators of this process, seeded from the key within the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        random.seed(key)
        np.random.seed(key & 0xFFFFFFFF)
        torch.default_generator.manual_seed(key)  # torch.manual_seed would also seed CUDA
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
