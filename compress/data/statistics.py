"""Mean and standard deviation of pictures. In: uint8 [N, H, W, 3]. Out: numbers in 0..1, by channel."""

import numpy as np
from numpy.typing import NDArray

_PIXELS = 2**20  # at a time: numpy counts them as int64, so they take 8 MB


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in 0..1, exactly, from histograms."""
    values = np.arange(256) / 255
    at_once = max(1, _PIXELS // (images.shape[1] * images.shape[2]))
    mean: list[float] = []
    std: list[float] = []
    for channel in range(3):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), at_once):
            counts += np.bincount(images[start : start + at_once, ..., channel].reshape(-1), minlength=256)
        average = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - average) ** 2).sum() / counts.sum())
        mean.append(round(average, 4))
        std.append(max(round(variance**0.5, 4), 0.01))  # a constant channel must not divide by 0
    return mean, std
