"""Any picture that Pillow opens becomes RGB of 8 bits, upright.

It needs Pillow and numpy alone: a bundle takes this file with it, so that a picture becomes the same pixels there.
"""

import numpy as np
from PIL import Image, ImageOps


def upright(image: Image.Image) -> Image.Image:
    """The picture as people see it: with its EXIF rotation applied."""
    image.load()
    return ImageOps.exif_transpose(image)


def rgb(image: Image.Image) -> Image.Image:
    """The picture with three channels of 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte, where Pillow clips at 255. Modes I and F count as 8-bit up to 255."""
    values = np.asarray(image).astype(np.float64)
    scale = 257.0 if image.mode.startswith("I;16") or values.max() > 255 else 1.0
    return Image.fromarray(np.clip(values / scale, 0, 255).round().astype(np.uint8))
