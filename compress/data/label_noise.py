"""Symmetric noise in labels, for studies.

In: labels. Out: labels of which a part is wrong, always in the same way.
"""

import numpy as np
from numpy.typing import NDArray

_NOISE_SEED = 0


def noisy_labels(labels: NDArray[np.int64], part: float, num_classes: int) -> NDArray[np.int64]:
    """Labels with symmetric noise: with probability `part` a label becomes another class, each with equal chance.

    The change of a label depends on its index alone. A label that changes at one `part` changes in the same way at a
    larger one.

    Args:
        labels: int64 [N].
        part: in [0, 1].

    Returns:
        int64 [N].
    """
    # PCG64's raw numbers are the same in every version of numpy, which a Generator does not promise.
    draws = np.random.PCG64(_NOISE_SEED).random_raw(2 * len(labels)).reshape(-1, 2)
    other = (labels + 1 + (draws[:, 1] % (num_classes - 1)).astype(np.int64)) % num_classes
    return np.where(draws[:, 0] / 2.0**64 < part, other, labels)
