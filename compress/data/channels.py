"""The mean and standard deviation of the channels of images, uint8 [N, H, W, 3]."""

import numpy as np
from numpy.typing import NDArray


def channel_statistics(images: NDArray[np.uint8]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in 0..1, exactly, from histograms."""
    values = np.arange(256) / 255
    mean: list[float] = []
    std: list[float] = []
    for channel in range(3):
        counts = np.zeros(256, dtype=np.int64)
        for start in range(0, len(images), 4096):
            counts += np.bincount(images[start : start + 4096, ..., channel].reshape(-1), minlength=256)
        average = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - average) ** 2).sum() / counts.sum())
        mean.append(round(average, 4))
        std.append(max(round(variance**0.5, 4), 0.01))  # a constant channel must not divide by 0
    return mean, std
