"""What can be done to an INT8 file that loses too much, before layers go back to float, in the order it is tried.

In: a model calibrated by the default method. Out: Quantizers that err less on training images, best last.
"""

import functools
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from export.gates import Stage
from export.int8.bias import corrected
from export.int8.calibrate import Method
from export.int8.equalize import equalized
from export.int8.layouts import WHOLE, ranked_layouts
from export.int8.quantize import ORT_OPS, Layout, Quantizer, Target
from export.int8.sensitivity import divergence, layer_sensitivity

logger = logging.getLogger(__name__)

Steps = tuple[str, ...]
DEFAULT_METHOD: Method = "percentile"
_OTHER_METHODS: tuple[Method, ...] = ("minmax", "entropy")


@dataclass(frozen=True)
class Repaired:
    """A Quantizer, and what was done to it. error: of its file, on training images, in nats (`divergence`)."""

    quantizer: Quantizer
    steps: Steps
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

    def layouts(self, target: Target) -> Iterator[tuple[str, Layout]]:
        """What of the graph may be in 8 bits, by name: in ONNX Runtime the fastest here first, for TensorRT all.

        Once export.int8_minutes are over, with timing and with what is done between the first and the last, the whole
        graph alone still comes.
        """
        if target == "trt":
            yield WHOLE, Layout(ORT_OPS)
            return
        settings, plain = self.stage.settings, self.plain
        began = time.monotonic()
        ranked = ranked_layouts(
            plain,
            self.stage.folder.onnx(),
            minutes=settings.int8_minutes,
            min_int8_macs=settings.min_int8_macs,
            threads=self.stage.threads,
        )
        left = 60 * settings.int8_minutes - (time.monotonic() - began)
        for number, (name, layout) in enumerate(ranked.items()):
            if number and left <= 0 and name != WHOLE:
                logger.warning(f"export.int8_minutes is over: the layout {name!r} is not tried")
                continue
            began = time.monotonic()
            yield name, layout
            if number:  # one layout is tried in any case
                left -= time.monotonic() - began

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

    def repaired(self, target: Target, layout: Layout) -> Iterator[Repaired]:
        """The plain one of a layout, then whatever errs less than all before it."""
        plain = self.plain.laid_out(layout)
        best = Repaired(plain, (), self._error(plain, target))
        yield best
        for attempt in (self._bias_correction, self._equalisation, self._other_calibrations):
            for quantizer, steps in attempt(best, target, layout):
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

    def _bias_correction(self, best: Repaired, target: Target, _: Layout) -> Iterator[tuple[Quantizer, Steps]]:
        yield self._corrected(best.quantizer, target), (*best.steps, "bias correction")

    def _equalisation(self, best: Repaired, target: Target, layout: Layout) -> Iterator[tuple[Quantizer, Steps]]:
        if self._settled or self._equalized is None:
            return
        quantizer = self._equalized.laid_out(layout)
        yield quantizer, ("cross-layer equalisation",)
        yield self._corrected(quantizer, target), ("cross-layer equalisation", "bias correction")

    def _other_calibrations(self, best: Repaired, target: Target, layout: Layout) -> Iterator[tuple[Quantizer, Steps]]:
        if self.stage.settings.calibration_method == "auto" and not self._settled:
            for method in _OTHER_METHODS:
                quantizer = self._by_method(method).laid_out(layout)
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
