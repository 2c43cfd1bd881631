"""What can be done to an INT8 file that loses too much, before layers go back to float, in the order it is tried.

In: a model calibrated by the default method. Out: Quantizers that err less on training images, best last.
"""

import functools
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from export.gates import Stage
from export.int8.bias import corrected
from export.int8.calibrate import Method
from export.int8.equalize import equalized
from export.int8.layouts import fastest_layout
from export.int8.quantize import Layout, Quantizer, Target
from export.int8.sensitivity import divergence, layer_sensitivity

logger = logging.getLogger(__name__)

DEFAULT_METHOD: Method = "percentile"
_OTHER_METHODS: tuple[Method, ...] = ("minmax", "entropy")


@dataclass(frozen=True)
class Repaired:
    """A Quantizer, and what was done to it. error: of its file, on training images, in nats (`divergence`)."""

    quantizer: Quantizer
    steps: tuple[str, ...]
    error: float


@dataclass
class Workshop:
    """One model that becomes INT8: its images, and what of it is computed once for all files.

    calibrated: uint8 images [N, H, W, C] that ranges and means are measured on. tried: others, that errors are.
    """

    stage: Stage
    calibrated: np.ndarray
    tried: np.ndarray

    @functools.cached_property
    def plain(self) -> Quantizer:
        """Calibrated by the method of the recipe."""
        return self._calibrated(self.stage.folder.onnx(), self._method)

    @functools.cached_property
    def layout(self) -> tuple[str, Layout]:
        """What of the graph is fastest in 8 bits in ONNX Runtime here, and its name."""
        settings = self.stage.settings
        return fastest_layout(
            self.plain,
            self.stage.folder.onnx(),
            minutes=settings.int8_minutes,
            min_int8_macs=settings.min_int8_macs,
            threads=self.stage.threads,
        )

    @functools.cached_property
    def reference(self) -> np.ndarray:
        """The FP32 file's logits of the tried images."""
        return self.stage.ort(self.stage.folder.onnx())(self.tried)

    def harm(self, target: Target) -> dict[str, float]:
        """What each layer does alone, worst first."""
        data, threads = self.stage.data, self.stage.threads
        return layer_sensitivity(
            self.plain, self.reference, self.tried, mean=data.mean, std=data.std, target=target, threads=threads
        )

    def repaired(self, target: Target) -> Iterator[Repaired]:
        """The plain one, then whatever errs less than all before it."""
        plain = self._laid_out(self.plain, target)
        best = Repaired(plain, (), self._error(plain, target))
        yield best
        for attempt in (self._bias_correction, self._equalisation, self._other_calibrations):
            for quantizer, steps in attempt(best, target):
                error = self._error(quantizer, target)
                logger.info(f"INT8 for {target}: {' and '.join(steps)}: error {best.error:.3g} -> {error:.3g} nats")
                if error < best.error:
                    best = Repaired(quantizer, steps, error)
                    yield best

    @property
    def _method(self) -> Method:
        chosen: Literal["auto"] | Method = self.stage.settings.calibration_method
        return DEFAULT_METHOD if chosen == "auto" else chosen

    @property
    def _settled(self) -> bool:
        """Whether training has settled the ranges."""
        return self.stage.source.input_ranges is not None

    def _bias_correction(self, best: Repaired, target: Target) -> Iterator[tuple[Quantizer, tuple[str, ...]]]:
        yield self._corrected(best.quantizer, target), (*best.steps, "bias correction")

    def _equalisation(self, best: Repaired, target: Target) -> Iterator[tuple[Quantizer, tuple[str, ...]]]:
        if self._settled or self._equalized is None:
            return
        quantizer = self._laid_out(self._equalized, target)
        yield quantizer, ("cross-layer equalisation",)
        yield self._corrected(quantizer, target), ("cross-layer equalisation", "bias correction")

    def _other_calibrations(self, best: Repaired, target: Target) -> Iterator[tuple[Quantizer, tuple[str, ...]]]:
        if self.stage.settings.calibration_method == "auto" and not self._settled:
            for method in _OTHER_METHODS:
                quantizer = self._laid_out(self._by_method(method), target)
                yield self._corrected(quantizer, target), (f"{method} calibration", "bias correction")

    @functools.cached_property
    def _equalized(self) -> Quantizer | None:
        """None where the model has no depthwise convolution to do it at."""
        data = self.stage.data
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "equalized.onnx"
            count = equalized(self.stage.folder.onnx(), path, self.calibrated, data.mean, data.std, self.stage.threads)
            return self._calibrated(path, self._method) if count else None

    def _by_method(self, method: Method) -> Quantizer:
        if method not in self._others:
            self._others[method] = self._calibrated(self.stage.folder.onnx(), method)
        return self._others[method]

    @functools.cached_property
    def _others(self) -> dict[Method, Quantizer]:
        return {}

    def _laid_out(self, quantizer: Quantizer, target: Target) -> Quantizer:
        return quantizer.laid_out(self.layout[1]) if target == "ort" else quantizer

    def _corrected(self, quantizer: Quantizer, target: Target) -> Quantizer:
        data = self.stage.data
        return corrected(quantizer, self.calibrated, data.mean, data.std, target=target, threads=self.stage.threads)

    def _calibrated(self, path: Path, method: Method) -> Quantizer:
        data, source = self.stage.data, self.stage.source
        return Quantizer(
            path,
            self.calibrated,
            data.mean,
            data.std,
            method=method,
            threads=self.stage.threads,
            input_ranges=source.input_ranges,
        )

    def _error(self, quantizer: Quantizer, target: Target) -> float:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantizer.write(path, target=target)
            logits = self.stage.ort(path, literal=target == "trt")(self.tried)
        error = divergence(self.reference, logits)
        return error if np.isfinite(error) else float("inf")
