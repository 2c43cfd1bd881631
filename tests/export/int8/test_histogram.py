"""Histograms of activations: against numpy on all values at once, however small the first batch was."""

import numpy as np
import pytest
from onnxruntime.quantization.calibrate import HistogramCollector

from export.int8.histogram import BoundedHistograms

BINS, MOST = 2048, 16 * 2048


def batches(first: float) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [first * generator.normal(size=4000), *(generator.normal(size=4000) for _ in range(3))]


@pytest.mark.parametrize("first", [1.0, 1e-3, 1e-12, 0.0])
def test_the_range_is_that_of_all_values(first: float) -> None:
    collector = BoundedHistograms(bins=BINS, most=MOST, percentile=99.0)
    values = [batch.astype(np.float32) for batch in batches(first)]
    for batch in values:
        collector.collect({"x": [batch]})
    counts, edges, low, high, threshold = collector.get_histogram_dict()["x"]
    everything = np.concatenate(values)
    assert counts.sum() == everything.size
    assert len(counts) <= MOST + 2
    assert (low, high) == (everything.min(), everything.max())
    assert edges[-1] == pytest.approx(threshold)
    found = collector.compute_collection_result()["x"][:2]
    width = 2 * float(threshold) / len(counts)
    assert width < 0.01
    # The values themselves lie 0.01 apart out there.
    np.testing.assert_allclose(found, np.quantile(everything, [0.005, 0.995]), atol=width + 0.02)


def test_onnxruntimes_own_stops_at_a_small_first_batch() -> None:
    """What the class is for. Where this fails, ONNX Runtime has mended it."""
    collector = HistogramCollector("percentile", False, BINS, BINS, 99.0, "same")
    first, second, *_ = (batch.astype(np.float32) for batch in batches(1e-12))
    collector.collect({"x": [first]})
    with pytest.raises((ValueError, MemoryError)):
        collector.collect({"x": [second]})
