"""Any picture that Pillow opens becomes RGB of 8 bits, upright.

In: a Pillow image. Out: the same in mode RGB. What is transparent is on white. Grey values of more than 8 bits, and
floats, are scaled by the range that they fill. It needs Pillow and numpy alone: a bundle takes this file with it, so
that a picture becomes the same pixels there.
"""

import numpy as np
from PIL import Image, ImageOps

_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_DEEP = (1023, 4095, 16383, 65535)
_OVERSHOOT = 0.25  # of a range: Lanczos on fine bars overshoots by 0.22
_BULK_PERCENT = 99.5
_FILLED = 0.25  # the part of 0..1 that shows it to be the range of a picture
_NEARLY_BLACK = 8


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
    """Grey of up to 16 bits, where Pillow clips at 255. Ten, twelve and fourteen bits are known by their range.

    Mode I counts as 8-bit up to 255. In the 16-bit modes so small values are near black. Multiples of 257 are 8 bits
    that were spread over sixteen: however dark such a picture is, its range is known.
    """
    values = np.asarray(image).astype(np.float64)
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > 65535:
        raise _no_range(lowest, highest)
    if highest <= 255:
        top = 65535 if image.mode.startswith("I;16") else 255
    elif (values % 257 == 0).all():
        top = 65535
    else:
        top = next(top for top in _DEEP if highest <= top)
    return _grey(values * (255 / top))


def _from_floats(image: Image.Image) -> Image.Image:
    """Grey of 0..1 or -1..1, of 0..255, or of 10 to 16 bits. Pixels that are no number are black.

    Resampling overshoots a range. That is cut off, and so are a few pixels that are up to twice as bright.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    lowest, highest = values.min(), values.max()
    if -_OVERSHOOT > lowest >= -1 - _OVERSHOOT and highest <= 1 + _OVERSHOOT:
        return _grey((values + 1) * 127.5)
    dark, bright = np.percentile(values, [100 - _BULK_PERCENT, _BULK_PERCENT])
    if (values == np.rint(values)).all():  # as they were recorded
        top = next((top for top in (1, 256, *_DEEP) if highest <= top), None)
        top = 255 if top == 256 else top
    else:
        fits = (top for top in (1, 255, *_DEEP) if bright <= (1 + _OVERSHOOT) * top and highest <= 2 * top)
        top = next(fits, None)
        in_one = bright <= 1 + _OVERSHOOT and bright - dark > _FILLED
        if top != 1 and (highest <= _NEARLY_BLACK or in_one):
            top = None  # 0..255 and all but black, or 0..1 and far too bright in places
    below = _OVERSHOOT if top in (1, 255) else _OVERSHOOT / 4  # deep values below zero are measurements, as of a CT
    if top is None or lowest < -below * top:
        raise _no_range(lowest, highest)
    return _grey(values * (255 / top))


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def _no_range(lowest: float, highest: float) -> ValueError:
    return ValueError(f"its values are from {lowest:g} to {highest:g}, which is no range of pictures")
