"""What an augmented sample may look like, found by brute force over every shift and flip."""

import numpy as np
from numpy.typing import NDArray


def shifted(image: NDArray[np.uint8], dy: int, dx: int, flip: bool) -> NDArray[np.uint8]:
    """The image [H, W, 3], mirrored or not, and a window onto it moved by (dy, dx); black outside."""
    source = image[:, ::-1] if flip else image
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                out[y, x] = source[y + dy, x + dx]
    return out


def find_shift(image: NDArray[np.uint8], result: NDArray[np.uint8], padding: int) -> set[tuple[int, int, bool]]:
    """Every (dy, dx, flip) that turns the image into the result."""
    window = range(-padding, padding + 1)
    return {
        (dy, dx, flip)
        for dy in window
        for dx in window
        for flip in (False, True)
        if np.array_equal(shifted(image, dy, dx, flip), result)
    }
