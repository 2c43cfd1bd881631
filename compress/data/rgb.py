"""Any picture that Pillow opens becomes RGB of 8 bits, upright.

In: a Pillow image. Out: the same in mode RGB. What is transparent is on white. Grey values of more than 8 bits, and
floats, are scaled by the range that they fill. It needs Pillow and numpy alone: a bundle takes this file with it, so
that a picture becomes the same pixels there.
"""

import numpy as np
from PIL import Image, ImageOps

_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


def upright(image: Image.Image) -> Image.Image:
    """The picture as people see it: with its EXIF rotation applied."""
    image.load()
    return ImageOps.exif_transpose(image)


def rgb(image: Image.Image) -> Image.Image:
    """The picture in mode RGB.

    Raises:
        ValueError: its values are in no range of pictures, or Pillow does not convert its mode.
    """
    if image.mode == "F":
        image = _from_floats(image)
    elif image.mode.startswith("I"):
        image = _from_integers(image)
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema() == (255, 255):
            return with_alpha.convert("RGB")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.convert("RGB")


def _from_integers(image: Image.Image) -> Image.Image:
    """Grey of up to 16 bits, where Pillow clips at 255. Twelve bits in sixteen are known by their range.

    Mode I counts as 8-bit up to 255. In the 16-bit modes so small values are near black.
    """
    values = np.asarray(image).astype(np.float64)
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > 65535:
        raise _no_range(lowest, highest)
    if highest <= 255:
        scale = 257.0 if image.mode.startswith("I;16") else 1.0
    else:
        scale = 4095 / 255 if highest <= 4095 else 257.0
    return _grey(values / scale)


def _from_floats(image: Image.Image) -> Image.Image:
    """Grey of 0..1 or -1..1, or of 0..255 or 0..65535. Pixels that are no number are black."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    lowest, highest = values.min(), values.max()
    if lowest >= 0 and highest <= 1:
        return _grey(values * 255)
    if lowest >= -1 and highest <= 1:
        return _grey((values + 1) * 127.5)
    if lowest < 0 or highest > 65535:
        raise _no_range(lowest, highest)
    return _grey(values / (257.0 if highest > 255 else 1.0))


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def _no_range(lowest: float, highest: float) -> ValueError:
    return ValueError(f"its values are from {lowest:g} to {highest:g}, which is no range of pictures")
