"""The INT8 files of an export: calibrated on training images only, with layers in float until the accuracy holds."""

import functools
import hashlib
import logging
import statistics
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np

from compress.system.errors import GateError
from export.gates import Stage, gated, parity
from export.int8.layouts import fastest_layout
from export.int8.macs import counted_ops, int8_mac_fraction
from export.int8.quantize import Quantizer, Target, fusion_coverage, has_vnni
from export.int8.sensitivity import layer_sensitivity, quantize_until
from export.records import CalibrationRecord, Format, FusionRecord
from export.runtimes import normalise

logger = logging.getLogger(__name__)

_SPEED_RUNS = 50


def int8_files(stage: Stage, formats: Collection[Format]) -> None:
    """Makes student.int8.onnx for the format onnx and student.int8.trt.onnx for trt, from one calibration.

    OpenVINO runs either, and which is faster depends on the model. For it both are made, and one of them suffices.

    Raises:
        GateError: no file that meets the limits can be made.
    """
    targets: dict[Format, tuple[Target, Path]] = {
        "onnx": ("ort", stage.folder.onnx("int8")),
        "trt": ("trt", stage.folder.trt_onnx("int8")),
    }
    made: list[Format] = [name for name in targets if name in formats or "openvino" in formats]
    wanted: list[Format] = [name for name in made if not stage.unchanged(targets[name][1])]
    if not wanted:
        return
    data, settings = stage.data, stage.settings
    generator = np.random.default_rng(settings.calibration_seed)
    count = min(settings.calibration_images, len(data.train_images))
    indices = np.sort(generator.choice(len(data.train_images), count, replace=False))
    calibrated = data.train_as_evaluated(indices)
    quantizer = Quantizer(
        stage.folder.onnx(),
        calibrated,
        data.mean,
        data.std,
        method=settings.calibration_method,
        threads=stage.threads,
        input_ranges=stage.source.input_ranges,
    )
    layout = ""
    if "onnx" in wanted:
        layout, laid_out = fastest_layout(
            quantizer,
            stage.folder.onnx(),
            minutes=settings.int8_minutes,
            min_int8_macs=settings.min_int8_macs,
            threads=stage.threads,
        )
        quantizer = quantizer.laid_out(laid_out)
    calibration = CalibrationRecord(
        split="train",
        method=settings.calibration_method,
        images=count,
        indices_sha256=indices_sha256(indices),
        indices=indices.tolist(),
        reduced_range=not has_vnni(),
    )
    stage.note(calibration=calibration)
    tried = calibrated[generator.permutation(count)[: settings.sensitivity_images]]

    @functools.cache
    def sensitivity() -> dict[str, float]:
        reference = stage.ort(stage.folder.onnx())(tried)
        harm = layer_sensitivity(quantizer, reference, tried, mean=data.mean, std=data.std, threads=stage.threads)
        stage.note(layer_sensitivity=harm)
        return harm

    for name in wanted:
        try:
            _int8_file(stage, quantizer, *targets[name], sensitivity, layout)
        except GateError as error:
            if name in formats:
                raise
            logger.warning(f"{targets[name][1].name} is not made: {error.message}")


def _speedup(stage: Stage, int8: Path) -> float:
    """FP32's median time over INT8's, at batch 1, in turns: enough for a warning; `compress benchmark` measures."""
    image = normalise(stage.data.eval_images[:1], stage.data.mean, stage.data.std)
    runtimes = (stage.ort(stage.folder.onnx()), stage.ort(int8))
    times: tuple[list[int], list[int]] = ([], [])
    for number in range(_SPEED_RUNS + 5):
        for runtime, kept in zip(runtimes, times, strict=True):
            began = time.perf_counter_ns()
            runtime.run(image)
            if number >= 5:  # the first ones warm up
                kept.append(time.perf_counter_ns() - began)
    return statistics.median(times[0]) / statistics.median(times[1])


def indices_sha256(indices: np.ndarray) -> str:
    """SHA-256 of the indices as little-endian int64, so that it can be recomputed anywhere."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


def _int8_file(
    stage: Stage,
    quantizer: Quantizer,
    target: Target,
    path: Path,
    sensitivity: Callable[[], dict[str, float]],
    layout: str,
) -> None:
    settings = stage.settings
    measured: dict[str, Any] = {}

    def gate(candidate: Path) -> None:
        logits = stage.ort(candidate, literal=target == "trt")(stage.data.eval_images)
        drop = parity.paired_drop(stage.fp32_logits, logits, stage.data.eval_labels)
        measured["agreement"] = float((logits.argmax(1) == stage.fp32_logits.argmax(1)).mean())
        measured["drop"] = drop
        measured.setdefault("drop_all_int8", measured["drop"])  # the first that is tried has no layer in float
        parity.check_finite(logits, "INT8")
        parity.check_drop(drop, settings.max_int8_top1_drop, "INT8")

    with gated(path) as temporary:
        measured["float_layers"] = quantize_until(
            quantizer,
            temporary,
            gate,
            target=target,
            sensitivity=sensitivity,
            min_int8_macs=settings.min_int8_macs,
        )
        parity.check_graph(temporary)
        measured["int8_macs"] = int8_mac_fraction(temporary, counted_ops(temporary))
        if target == "ort":
            measured["layout"] = layout
            int8, floats = fusion_coverage(temporary)
            measured["fusion_coverage"] = FusionRecord(int8_convs=int8, float_convs=floats)
            if floats:
                logger.warning(f"ONNX Runtime runs {floats} of {int8 + floats} convolutions of {path.name} in float")
            measured["speedup_over_fp32"] = round(_speedup(stage, temporary), 2)
            if measured["speedup_over_fp32"] < 1:
                logger.warning(
                    f"{path.name} runs at {measured['speedup_over_fp32']:.2f}x the speed of FP32 at batch 1 "
                    "here: INT8 does not pay on this machine for this model"
                )
    if measured["float_layers"]:
        lost, kept = (100 * measured[name].drop for name in ("drop_all_int8", "drop"))
        logger.info(
            f"{path.name}: in float to lose {kept:.2f} points and not {lost:.2f}: {', '.join(measured['float_layers'])}"
        )
    stage.keep(path, measured)
