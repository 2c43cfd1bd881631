"""Histograms of activations whose number of bins is bounded, however small the first values were.

In: the tensors of one batch after another. Out: for each the counts over [-threshold, threshold], and the extremes.
"""

import numpy as np
from onnxruntime.quantization.calibrate import HistogramCollector

_Histogram = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class BoundedHistograms(HistogramCollector):
    """ONNX Runtime keeps the width of the first batch's bins for ever, and adds bins for larger values.

    Where the first values are a millionth of the later ones, that is "Too many bins for data range", or no memory. Here
    two bins become one until they are few enough.

    Args:
        bins: of the first batch.
        most: bins of any tensor.
        percentile: as ONNX Runtime's.
    """

    def __init__(self, *, bins: int, most: int, percentile: float) -> None:
        super().__init__("percentile", False, bins, bins, percentile, "same")
        self.most = most

    def merge_histogram(
        self,
        old_histogram: _Histogram,
        data_arr: np.ndarray,
        new_min: np.ndarray,
        new_max: np.ndarray,
        new_threshold: np.ndarray,
    ) -> _Histogram:
        """Adds a batch of a tensor to its histogram."""
        counts, edges, low, high, threshold = old_histogram
        reach = float(threshold)
        while 0 < reach < new_threshold and len(counts) * float(new_threshold) / reach > self.most:
            # As many bins, twice as wide, over twice the range.
            counts = np.pad(counts, len(counts) // 2).reshape(-1, 2).sum(axis=1)
            reach *= 2
        if reach != float(threshold):
            threshold = np.array(reach, threshold.dtype)
            edges = np.linspace(-reach, reach, len(counts) + 1, dtype=threshold.dtype)
        return super().merge_histogram((counts, edges, low, high, threshold), data_arr, new_min, new_max, new_threshold)
