"""One picture as training sees it, cropped at its full resolution.

In: a Pillow image and a key. Out: a uint8 square. The draws depend on the key alone.
"""

import math
import random
import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.data.decode import Square
from compress.data.photometric import Photometric
from compress.data.preprocessing import FILTERS
from compress.data.rgb import rgb, upright
from compress.recipe import Augment

_LOCK = threading.Lock()
_SIDES = (3 / 4, 4 / 3)
_TRIES = 10
_GAP = 2  # a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves twice the pixels that are needed


@dataclass(frozen=True)
class TrainingPicture:
    """How training sees a picture.

    Attributes:
        square: how a picture becomes a square where the augmentation makes no random resized crop.
        augment: resolved (`compress.data.resolve_augment`).
        mean: of each channel in 0..1, which fills what warps leave empty.
    """

    square: Square
    augment: Augment
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __call__(self, image: Image.Image, key: int) -> NDArray[np.uint8]:
        """uint8 [size, size, 3]. The order of the changes is that of timm.

        Args:
            image: as its file has it, perhaps not decoded yet.
            key: of the draws.
        """
        draws = random.Random(key)
        picture = self._resized_crop(image, draws) if self.augment.scale < 1 else self._shifted(image, draws)
        if self.augment.flip and draws.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.augment.per_picture:
            photometric = Photometric(self.augment, self.square.size, self.mean, self.square.interpolation)
            with _LOCK:  # the libraries draw from the generators of the process
                picture = photometric(picture, draws.getrandbits(63))
        return np.asarray(picture, dtype=np.uint8)

    def _resized_crop(self, image: Image.Image, draws: random.Random) -> Image.Image:
        size, kernel = self.square.size, FILTERS[self.square.interpolation]
        if image.getexif().get(0x0112, 1) != 1:  # the crop is one of the picture as people see it
            image = rgb(upright(image))
        whole = image.size
        left, top, width, height = self._part(*whole, draws)
        image.draft("RGB", (int(_GAP * size * whole[0] / width), int(_GAP * size * whole[1] / height)))
        x, y = image.width / whole[0], image.height / whole[1]
        image = rgb(upright(image))
        if (x, y) == (1, 1) and self.square.fit == "crop":
            return image.crop((int(left), int(top), int(left + width), int(top + height))).resize((size, size), kernel)
        across, down = _seen(left, width, whole[0], size), _seen(top, height, whole[1], size)
        box = (across.begin * x, down.begin * y, min(across.end * x, image.width), min(down.end * y, image.height))
        shown = image.resize((across.pixels, down.pixels), kernel, box=box)
        if shown.size == (size, size):
            return shown
        canvas = Image.new("RGB", (size, size), self.square.fill)
        canvas.paste(shown, (across.at, down.at))
        return canvas

    def _part(self, width: int, height: int, draws: random.Random) -> tuple[float, float, float, float]:
        """A random part of a picture of that size: its left, top, width and height in pixels.

        crop: of the picture as it is, as in timm. stretch and pad: of the square that the picture becomes (ours), since
        the whole square is what evaluation sees. Of pad it shows as much of the picture as its size allows, so it may
        begin or end beyond the picture, and is never border alone.
        """
        smallest, side = self.augment.scale, max(width, height)
        if self.square.fit == "crop":
            return crop_box(width, height, smallest, draws)
        left, top, w, h = crop_box(side, side, smallest, draws)
        if self.square.fit == "stretch":
            x, y = width / side, height / side
            return left * x, top * y, w * x, h * y
        return _beside_borders(width, w, side, draws), _beside_borders(height, h, side, draws), w, h

    def _shifted(self, image: Image.Image, draws: random.Random) -> Image.Image:
        """The square, shifted by up to `crop` pixels over black."""
        square, padding = Image.fromarray(self.square(upright(image))), self.augment.crop or 0
        if not padding:
            return square
        x, y = draws.randint(0, 2 * padding), draws.randint(0, 2 * padding)
        return ImageOps.expand(square, padding).crop((x, y, x + square.width, y + square.height))


@dataclass(frozen=True)
class _Seen:
    """What is seen of a side: from where to where, in its pixels, and at which of the square's pixels, on how many."""

    begin: float
    end: float
    at: int
    pixels: int


def _seen(start: float, length: float, side: int, size: int) -> _Seen:
    """What a part that begins at `start` shows of a picture's side, where that part becomes `size` pixels."""
    begin, end = max(start, 0), min(start + length, side)
    at = min(round((begin - start) / length * size), size - 1)
    return _Seen(begin, end, at, max(1, round((end - start) / length * size) - at))


def _beside_borders(own: int, part: int, side: int, draws: random.Random) -> float:
    """Where a part of a padded square begins on a side of the picture that has `own` pixels, and the square `side`."""
    border = (side - own) / 2
    ends = (0, own - part) if part <= own else (max(own - part, -border), min(0, side - border - part))
    return draws.uniform(*ends)


def crop_box(width: int, height: int, smallest: float, draws: random.Random) -> tuple[int, int, int, int]:
    """A random part of a picture: its left, top, width and height, in pixels.

    Its area is in [smallest, 1] of the picture's, and its side ratio in [3/4, 4/3] where the picture allows it.
    Source: Szegedy et al. 2015, as in torchvision's and timm's RandomResizedCrop.
    """
    for _ in range(_TRIES):
        area = draws.uniform(smallest, 1) * width * height
        ratio = math.exp(draws.uniform(*map(math.log, _SIDES)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = draws.randint(0, height - h)
            return draws.randint(0, width - w), top, w, h
    w, h = min(width, round(height * _SIDES[1])), min(height, round(width / _SIDES[0]))
    return (width - w) // 2, (height - h) // 2, w, h
