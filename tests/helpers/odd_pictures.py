"""Files of pictures that are odd but whole, one kind each, below a name without an ending."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.pictures import smooth_picture


def animated(path: Path) -> None:
    frames = [smooth_picture(24, 24, seed=900 + number) for number in range(3)]
    frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:])


def cmyk(path: Path) -> None:
    smooth_picture(24, 24, seed=910).convert("CMYK").save(path.with_suffix(".jpg"))


def deep(path: Path) -> None:
    grey = np.asarray(smooth_picture(24, 24, seed=920).convert("L")).astype(np.uint16)
    Image.fromarray(grey * 257).save(path.with_suffix(".png"))


def transparent(path: Path) -> None:
    image = smooth_picture(24, 24, seed=930).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path.with_suffix(".png"))


def grey(path: Path) -> None:
    smooth_picture(24, 24, seed=940).convert("L").save(path.with_suffix(".png"))


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth_picture(30, 24, seed=950).save(path.with_suffix(".jpg"), exif=exif)


def one_colour(path: Path) -> None:
    Image.new("RGB", (24, 24), (200, 30, 30)).save(path.with_suffix(".png"))


def small(path: Path) -> None:
    smooth_picture(24, 11, seed=960).save(path.with_suffix(".png"))


ODD: dict[str, Callable[[Path], None]] = {
    "several frames": animated,
    "CMYK": cmyk,
    "deep": deep,
    "transparent": transparent,
    "grey": grey,
    "turned": turned,
    "one colour": one_colour,
    "small": small,
}
"""Makers by the kind of finding."""
