"""The INT8 files of an export: calibrated on training images only, and repaired until the accuracy holds."""

import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.system.errors import GateError
from export.gates import Stage, gated, parity
from export.int8.macs import WEIGHTED, counted_ops, int8_mac_fraction, layer_macs
from export.int8.quantize import Layout, Quantizer, Target, fusion_coverage, has_vnni
from export.int8.repair import DEFAULT_METHOD, Workshop
from export.int8.sensitivity import quantize_until
from export.records import CalibrationRecord, DropRecord, Format, FusionRecord

logger = logging.getLogger(__name__)

_HINT = "The other files stay: export without it, or choose another architecture. --debug shows where."


def int8_files(stage: Stage, formats: Collection[Format]) -> None:
    """Makes student.int8.onnx for the format onnx and student.int8.trt.onnx for trt, from one calibration.

    OpenVINO runs either, and which is faster depends on the model. For it both are made, and one of them suffices. Why
    one of them could not be made is kept in the stage.
    """
    targets: dict[Format, tuple[Target, Path]] = {
        "onnx": ("ort", stage.folder.onnx("int8")),
        "trt": ("trt", stage.folder.trt_onnx("int8")),
    }
    made: list[Format] = [name for name in targets if name in formats or "openvino" in formats]
    workshop = functools.cache(lambda: _workshop(stage))
    for name in made:
        target, path = targets[name]
        if stage.unchanged(path):
            continue
        with stage.alone(path, f"quantizing {stage.folder.onnx().name} to int8", _HINT):
            _int8_file(stage, workshop(), target, path)
        if name not in formats and (error := stage.errors.pop(stage.folder.key(path), None)):
            logger.warning(f"{path.name} is not made: {error}")


def _workshop(stage: Stage) -> Workshop:
    """What both files share. Errors are measured on other images than ranges are, where there are others."""
    settings, indices = stage.settings, stage.calibration_rows
    generator = np.random.default_rng(settings.calibration_seed + 1)
    others = np.setdiff1d(np.arange(len(stage.data.train_images)), indices)
    tried = generator.permutation(others if len(others) else indices)[: settings.sensitivity_images]
    chosen = settings.calibration_method
    stage.note(
        calibration=CalibrationRecord(
            split="train",
            method=DEFAULT_METHOD if chosen == "auto" else chosen,
            images=len(indices),
            indices_sha256=indices_sha256(indices),
            indices=indices.tolist(),
            reduced_range=not has_vnni(),
        )
    )
    return Workshop(stage, stage.calibration_images, stage.data.train_as_evaluated(np.sort(tried)))


def indices_sha256(indices: np.ndarray) -> str:
    """SHA-256 of the indices as little-endian int64, so that it can be recomputed anywhere."""
    return hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()


@dataclass
class _Judge:
    """The gate of an INT8 file. Of the files that did not fail it keeps the one that loses least."""

    stage: Stage
    target: Target
    best_file: Path
    repairs: tuple[str, ...] = ()
    best: parity.Judged | None = None
    best_repairs: tuple[str, ...] = ()
    tried: dict[bytes, parity.Judged] = field(default_factory=dict)

    def judged(self, candidate: Path) -> parity.Judged:
        """What the file loses. Each is measured once. Raises GateError where a logit is not finite."""
        content = hashlib.sha256(candidate.read_bytes()).digest()
        if content not in self.tried:
            settings = self.stage.settings
            limits = parity.Limits(settings.max_int8_top1_drop, settings.min_int8_agreement)
            judged = self.stage.judge(self.stage.ort(candidate, literal=self.target == "trt"), limits, "INT8")
            self.tried[content] = judged
            if judged.outcome != "FAIL" and (self.best is None or judged.drop.drop < self.best.drop.drop):
                self.best, self.best_repairs = judged, self.repairs
                shutil.copyfile(candidate, self.best_file)
        return self.tried[content]

    def __call__(self, candidate: Path) -> None:
        """Raises GateError where what was measured is beyond a limit: a repair may bring it within."""
        judged = self.judged(candidate)
        parity.check_outcome(judged, "INT8")
        if not judged.within:
            raise GateError(
                f"INT8 loses {100 * judged.drop.drop:.2f} points of top-1 and agrees with FP32 on "
                f"{judged.agreement:.2%} of {judged.drop.n} images, {100 * judged.limits.max_drop:.2f} points and "
                f"{judged.limits.min_agreement:.2%} wanted"
            )

    @property
    def least_drop(self) -> float:
        """Of all that were tried."""
        return min((judged.drop.drop for judged in self.tried.values()), default=float("inf"))

    def passes(self, candidate: Path) -> bool:
        """Whether it needs no repair."""
        try:
            self(candidate)
        except GateError:
            return False
        return True


def _int8_file(stage: Stage, workshop: Workshop, target: Target, path: Path) -> None:
    with gated(path) as temporary, tempfile.TemporaryDirectory() as elsewhere:
        made = _best_layout(stage, workshop, target, Path(elsewhere))
        shutil.copyfile(made.path, temporary)
        parity.check_graph(temporary)
        measured = {
            **made.judged.dump(),
            "drop_all_int8": made.drop_all_int8,
            "repairs": list(made.repairs),
            "float_layers": _float_layers(temporary, made.quantizer, target),
            "int8_macs": _int8_share(temporary),
        }
        if target == "ort":
            measured |= {"layout": made.layout, **_in_onnxruntime(stage, path, temporary)}
    _say_repairs(path, measured, made.judged)
    stage.keep(path, measured)


@dataclass(frozen=True)
class _Made:
    """The best file of a layout."""

    layout: str
    path: Path
    quantizer: Quantizer
    judged: parity.Judged
    drop_all_int8: DropRecord
    repairs: tuple[str, ...]

    @property
    def rank(self) -> tuple[bool, float]:
        """Less is better: PASS, then what was measured within the limits, then what loses least."""
        return self.judged.outcome != "PASS", 0.0 if self.judged.within else self.judged.drop.drop


def _best_layout(stage: Stage, workshop: Workshop, target: Target, folder: Path) -> _Made:
    """Of the layouts, of which the fastest come first, the first whose file is PASS, else the best outcome.

    Raises:
        GateError: the file of every layout is FAIL. It is of the layout that loses least.
    """
    harm = functools.cache(lambda: _noted_harm(stage, workshop, target))
    best, refused = None, []
    for number, (name, layout) in enumerate(workshop.layouts(target)):
        judge = _Judge(stage, target, folder / f"best{number}.onnx")
        try:
            made = _made(workshop, judge, name, layout, folder / f"{number}.onnx", harm)
        except GateError as error:
            logger.info(f"INT8 for {target}, {name}: {error.message}")
            refused.append((judge.least_drop, error))
            continue
        if best is None or made.rank < best.rank:
            best = made
        if made.judged.outcome == "PASS":
            break
        logger.info(f"INT8 for {target}, {name}: {made.judged.outcome}")
    if best is None:
        raise min(refused, key=lambda drop_and_error: drop_and_error[0])[1]
    return best


def _made(
    workshop: Workshop, judge: _Judge, name: str, layout: Layout, path: Path, harm: Callable[[], dict[str, float]]
) -> _Made:
    """A layout's file at `path`. Raises GateError where it is FAIL after every repair."""
    target, min_int8_macs = judge.target, judge.stage.settings.min_int8_macs
    quantizer = _repaired(workshop, judge, layout, path)
    try:
        quantize_until(quantizer, path, judge, target=target, sensitivity=harm, min_int8_macs=min_int8_macs)
        repairs = judge.repairs
    except GateError:
        if judge.best is None or _int8_share(judge.best_file) < min_int8_macs:
            raise
        # No repair brings it within the limits, and no limit is missed for sure.
        shutil.copyfile(judge.best_file, path)
        repairs = judge.best_repairs
    return _Made(name, path, quantizer, judge.judged(path), next(iter(judge.tried.values())).drop, repairs)


def _repaired(workshop: Workshop, judge: _Judge, layout: Layout, temporary: Path) -> Quantizer:
    """The first that loses no more than is allowed, else the one that errs least."""
    found = workshop.plain
    for attempt in workshop.repaired(judge.target, layout):
        found, judge.repairs = attempt.quantizer, attempt.steps
        found.write(temporary, target=judge.target)
        if judge.passes(temporary):
            break
    return found


def _noted_harm(stage: Stage, workshop: Workshop, target: Target) -> dict[str, float]:
    """Each runtime rounds in its own way: what hurts one graph may leave the other whole."""
    harm = workshop.harm(target)
    if target == "ort":
        stage.note(layer_sensitivity=harm)
    else:
        stage.note(layer_sensitivity_trt=harm)
    return harm


def _int8_share(path: Path) -> float:
    return int8_mac_fraction(path, counted_ops(path))


def _float_layers(path: Path, quantizer: Quantizer, target: Target) -> list[str]:
    """The layers that could be INT8 and are not, in graph order."""
    known, left = layer_macs(path, WEIGHTED), quantizer.left_in_float(target)
    return [name for name in quantizer.layers if name in known and not known[name][1] and name not in left]


def _in_onnxruntime(stage: Stage, path: Path, made: Path) -> dict[str, Any]:
    """What ONNX Runtime makes of the file on this machine. Warns where INT8 does not pay."""
    int8, floats = fusion_coverage(made)
    if floats:
        logger.warning(f"ONNX Runtime runs {floats} of {int8 + floats} convolutions of {path.name} in float")
    speedup = stage.speedup(made)
    if speedup < 1:
        logger.warning(
            f"{path.name} runs at {speedup:.2f}x the speed of FP32 at batch 1 "
            "here: INT8 does not pay on this machine for this model"
        )
    return {"fusion_coverage": FusionRecord(int8_convs=int8, float_convs=floats), "speedup_over_fp32": speedup}


def _say_repairs(path: Path, measured: dict[str, Any], judged: parity.Judged) -> None:
    lost, kept = (100 * measured[name].drop for name in ("drop_all_int8", "drop"))
    if measured["repairs"]:
        logger.info(f"{path.name}: {', '.join(measured['repairs'])}")
    if measured["float_layers"]:
        names = ", ".join(measured["float_layers"])
        logger.info(f"{path.name}: in float to lose {kept:.2f} points and not {lost:.2f}: {names}")
    if not judged.within:
        logger.warning(
            f"{path.name} is beyond a limit after every repair: fine-tune the student for it (compress distill "
            "--resume --set train.quantize=int8)"
        )
