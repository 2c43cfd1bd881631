"""Activation ranges for INT8, measured on calibration images batch by batch, so that memory does not grow with them.

In: a prepared ONNX file and uint8 images. Out: the range (low, high) of every tensor that a quantiser may ask for.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import (
    HistogramCalibrater,
    HistogramCollector,
    TensorData,
    TensorsData,
    create_calibrator,
)
from scipy.special import rel_entr  # scipy.stats takes 0.7 s to import

from export.int8.histogram import BoundedHistograms
from export.onnx import INPUT_NAME, open_session
from export.runtimes import batches_to_measure, normalise

Method = Literal["minmax", "entropy", "percentile"]

# The share of values inside the range, in percent; the rest is clipped. Ours, between ONNX Runtime's 99.999 and 99.9.
PERCENTILE = 99.99
HISTOGRAM_BINS = 2048
MOST_BINS = 32 * HISTOGRAM_BINS
MIN_INSIDE = 0.99


class _OneBatch(CalibrationDataReader):
    """ONNX Runtime keeps what it saw until the reader ends, so each reader holds a single batch."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.remaining: Iterator[dict[str, np.ndarray]] = iter([{INPUT_NAME: inputs}])

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[override]
        return next(self.remaining, None)


def activation_ranges(
    prepared: Path,
    images: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    method: Method,
    op_types: Sequence[str],
    threads: int | None = None,
) -> TensorsData:
    """The range of each activation around the nodes of some operators.

    - minmax: the extremes.
    - percentile: all but the outermost 0.01 %.
    - entropy: the symmetric clipping threshold of least Kullback-Leibler divergence (Migacz, "8-bit inference with
      TensorRT", GTC 2017), cut to the extremes.

    Args:
        prepared: an ONNX file that ONNX Runtime has prepared for quantisation.
        images: uint8 [N, H, W, C].
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        method: one of the three.
        op_types: the operators.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        (low, high) by tensor, in ONNX Runtime's type.
    """
    base = CalibrationMethod.MinMax if method == "minmax" else CalibrationMethod.Percentile
    options = {} if method == "minmax" else {"num_bins": HISTOGRAM_BINS, "percentile": PERCENTILE, "symmetric": False}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        augmented = Path(folder) / "augmented.onnx"
        calibrator = create_calibrator(
            prepared,
            list(op_types),
            augmented_model_path=str(augmented),
            calibrate_method=base,
            extra_options=options,
        )
        # ONNX Runtime's calibrator opens a session of its own, which takes a thread for each of the host's cores.
        calibrator.infer_session = open_session(augmented, threads)
        if isinstance(calibrator, HistogramCalibrater):
            calibrator.collector = BoundedHistograms(bins=HISTOGRAM_BINS, most=MOST_BINS, percentile=PERCENTILE)
        for batch in batches_to_measure(images):
            calibrator.collect_data(_OneBatch(normalise(batch, mean, std)))
        if method == "entropy":
            return _entropy_ranges(cast(HistogramCalibrater, calibrator).collector)
        ranges = calibrator.compute_data()
    return _plain({name: data.range_value for name, data in ranges.items()})


def _plain(ranges: dict[str, tuple[np.ndarray, np.ndarray]]) -> TensorsData:
    """Every method ends in a plain range, whatever it was computed from."""
    data: dict[str, TensorData | tuple] = {name: plain_range(low, high) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def plain_range(low: np.ndarray | float, high: np.ndarray | float) -> TensorData:
    """A range in ONNX Runtime's type."""
    return TensorData(lowest=_scalar(low), highest=_scalar(high))


def _scalar(value: np.ndarray | float) -> np.ndarray:
    """Minmax comes as [1], the histograms as scalars."""
    return np.asarray(value, np.float32).reshape(())


def _entropy_ranges(collector: HistogramCollector | None) -> TensorsData:
    assert collector is not None  # made by the first batch
    ranges = {}
    # Sorted: the tensors come out of a set, whose order changes from run to run.
    for name, (counts, _, low, high, threshold) in sorted(collector.get_histogram_dict().items()):
        best = entropy_threshold(counts, float(threshold))
        ranges[name] = (max(low, -best), min(high, best))
    return _plain(ranges)


def entropy_threshold(counts: np.ndarray, threshold: float, *, levels: int = 128, candidates: int = 120) -> float:
    """The clipping threshold that loses least information.

    The histogram is folded to magnitudes. For each candidate the values beyond it are moved into its last bin: that is
    P. What was there before the move is quantised to `levels` and spread back over its non-empty bins: that is Q. The
    candidate of least KL(P || Q) wins. Thresholds that clip more than 1 % are no candidates [ours]: where all values
    lie far from zero, P and Q both shrink to their last bin, and a useless threshold has almost no divergence.

    Args:
        counts: a histogram of the values over [-threshold, threshold].
        threshold: the largest magnitude.
        levels: of the quantised magnitudes.
        candidates: about how many thresholds are tried.
    """
    half = len(counts) // 2
    magnitudes = (counts[-half:] + counts[:half][::-1]).astype(np.float64)
    # The histogram grows when a later batch has larger values; coarser bins keep the search short.
    merge = -(-half // HISTOGRAM_BINS)
    magnitudes = np.pad(magnitudes, (0, -half % merge)).reshape(-1, merge).sum(axis=1)
    half = len(magnitudes)
    width = threshold / half
    # ReLU's zeros are exact at any scale, yet would dominate the divergence (so also in pytorch-quantization).
    magnitudes[0] = magnitudes[1]
    if half <= levels or magnitudes.sum() == 0:
        return threshold
    best_stop, best_divergence = half, np.inf
    first = max(levels, int(np.searchsorted(np.cumsum(magnitudes), MIN_INSIDE * magnitudes.sum())) + 1)
    step = max(1, (half - first) // candidates)
    for stop in [*range(first, half, step), half]:
        inside = magnitudes[:stop]
        reference = inside.copy()
        reference[-1] += magnitudes[stop:].sum()
        level = np.arange(stop) * levels // stop
        filled = inside > 0
        totals = np.bincount(level, inside, levels)
        occupied = np.bincount(level, filled, levels)
        quantised = np.where(filled, (totals / np.maximum(occupied, 1))[level], 0.0)
        # A bin that only the clipped tail fills has no match in Q: give it one, or the divergence is infinite.
        quantised = np.where((reference > 0) & (quantised == 0), 1e-4 * reference.sum() / stop, quantised)
        divergence = float(rel_entr(reference / reference.sum(), quantised / quantised.sum()).sum())
        if divergence < best_divergence:
            best_stop, best_divergence = stop, divergence
    return best_stop * width
