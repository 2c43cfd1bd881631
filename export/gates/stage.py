"""What the steps of an export share: what is exported, its limits, and how a file gets its final name."""

import contextlib
import copy
import functools
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.data import Dataset
from compress.data.originals import stratified
from compress.recipe import Export
from compress.system.attempts import attempting
from compress.system.errors import CompressError, GateError, InputError
from compress.system.files import replacing, sha256_file
from export.folder import ExportFolder
from export.gates import parity
from export.records import CalibrationRecord, ExportRecord, FileRecord
from export.runtimes import OrtRuntime, Runtime, TorchRuntime, normalise

logger = logging.getLogger(__name__)

_PARITY_IMAGES = 32  # on which logits are compared; the class is compared on all
_SPEED_RUNS = 50


@dataclass(frozen=True)
class Source:
    """What is exported, and where it comes from.

    data: its images are calibrated and measured on. provenance: strings for the metadata of the files, such as run,
    recipe_sha256, weights_sha256. input_ranges: of a model that was fine-tuned for INT8, (lowest, highest) input by
    layer; the rest is calibrated.
    """

    model: nn.Module
    data: Dataset
    provenance: Mapping[str, str] = field(default_factory=dict)
    input_ranges: Mapping[str, Sequence[float]] | None = None


@dataclass
class Stage:
    """One export. `record` becomes export.json.

    earlier: the entries of files that need not be made again. threads: of ONNX Runtime, None for what this process may
    use. errors: what files failed with, by name. to_compare: no limit stops a file, which is for comparison alone.
    engine_batches: which engines are tuned for, besides those of the settings.
    """

    source: Source
    folder: ExportFolder
    settings: Export
    threads: int | None
    record: ExportRecord
    earlier: Mapping[str, FileRecord] = field(default_factory=dict)
    errors: dict[str, Exception] = field(default_factory=dict)
    to_compare: bool = False
    engine_batches: Sequence[int] = ()

    @property
    def data(self) -> Dataset:
        """The images of the run."""
        return self.source.data

    @functools.cached_property
    def fp32_logits(self) -> np.ndarray:
        """The FP32 file's on the evaluation split."""
        return self.ort(self.folder.onnx())(self.data.eval_images)

    def ort(self, path: Path, *, literal: bool = False) -> OrtRuntime:
        """An ONNX file, with the normalisation of the data."""
        return OrtRuntime(path, self.data.mean, self.data.std, threads=self.threads, literal=literal)

    def unchanged(self, path: Path) -> bool:
        """Whether an earlier export left this file, from the same of everything that determines it, and intact.

        What was made to compare with has passed no limit, so it is none for an export with limits.
        """
        name = self.folder.key(path)
        if name not in self.earlier or (self.earlier[name].to_compare and not self.to_compare):
            return False
        self.record.files[name] = self.earlier[name]
        logger.info(f"{path.name}: unchanged")
        self._say_undecided(name)
        return True

    def keep(self, path: Path, measured: Mapping[str, Any]) -> None:
        """Records a file that passed its gates, with what they measured. It says where they could not decide."""
        entry = {"sha256": sha256_file(path), "bytes": path.stat().st_size, **measured}
        if self.to_compare:
            entry["to_compare"] = True
        name = self.folder.key(path)
        self.record.files[name] = FileRecord.model_validate(entry)
        logger.info(f"{name}: {path.stat().st_size / 1e6:.1f} MB")
        self._say_undecided(name)

    def _say_undecided(self, name: str) -> None:
        if undecided := self.record.files[name].undecided:
            logger.warning(f"{name} is {undecided}")

    def note(
        self,
        *,
        calibration: CalibrationRecord | None = None,
        layer_sensitivity: dict[str, float] | None = None,
        layer_sensitivity_trt: dict[str, float] | None = None,
        failed: str | None = None,
        failures: dict[str, str] | None = None,
    ) -> None:
        """Adds to the record what is known by now."""
        found = {
            "calibration": calibration,
            "layer_sensitivity": layer_sensitivity,
            "layer_sensitivity_trt": layer_sensitivity_trt,
            "failed": failed,
            "failures": failures,
        }
        known = {name: value for name, value in found.items() if value is not None}
        self.record = self.record.model_copy(update=known)

    @functools.cached_property
    def calibration_rows(self) -> np.ndarray:
        """The training images, in order, that the ranges of activations are measured on."""
        generator, available = np.random.default_rng(self.settings.calibration_seed), len(self.data.train_images)
        return np.sort(generator.choice(available, min(self.settings.calibration_images, available), replace=False))

    @functools.cached_property
    def calibration_images(self) -> np.ndarray:
        """Those images, uint8 [N, H, W, C]."""
        return self.data.train_as_evaluated(self.calibration_rows)

    @functools.cached_property
    def torch_logits(self) -> np.ndarray:
        """The model's own in float32, on the evaluation split."""
        return TorchRuntime(self.source.model, self.data.mean, self.data.std)(self.data.eval_images)

    def check_parity(self, candidate: parity.Candidate, what: str) -> dict[str, Any]:
        """An FP32 file against torch: the logits of some evaluation images, and the class of all of them.

        Raises:
            GateError: it computes something else. `what` names the file in the message.
        """
        data, model = self.data, self.source.model
        rows = stratified(np.asarray(data.eval_labels), per_class=_PARITY_IMAGES, most=_PARITY_IMAGES)
        inputs = normalise(data.eval_images[rows], data.mean, data.std)
        reference = TorchRuntime(model, data.mean, data.std).run(inputs)
        measured = parity.check_logits(
            reference,
            _in_float64(model, inputs, reference),
            candidate,
            inputs,
            batches=(1, 2, 7, self.settings.batches[2]),
            max_diff=self.settings.max_logit_diff,
        )
        logits = candidate(data.eval_images)
        return {
            "outcome": "PASS",
            "logit_diff_by_batch": measured.diff_by_batch,
            "torch_float32_error": measured.float32_error,
            "agreement": parity.check_classes(self.torch_logits, logits, measured.tolerance, what),
            "top1": float((logits.argmax(1) == data.eval_labels).mean()),
        }

    def judge(self, run: Runtime, limits: parity.Limits, what: str) -> parity.Judged:
        """Agreement with FP32 and the paired drop of top-1, both on the whole evaluation split, and what follows.

        Raises:
            GateError: a logit is not finite. `what` names the file in the message.
        """
        logits = run(self.data.eval_images)
        parity.check_finite(logits, what)
        return parity.judge(self.fp32_logits, logits, self.data.eval_labels, limits)

    def check_accuracy(
        self, run: Runtime, max_drop: float, min_agreement: float, what: str, *, same_is_enough: bool = False
    ) -> dict[str, Any]:
        """What `judge` finds, as the fields of a FileRecord.

        Raises:
            GateError: the outcome is FAIL, or a logit is not finite. `what` names the file in the message.
        """
        judged = self.judge(run, parity.Limits(max_drop, min_agreement, same_is_enough), what)
        parity.check_outcome(judged, what)
        return judged.dump()

    def speedup(self, path: Path) -> float:
        """FP32's median time over that of another file, at batch 1, in turns: enough to choose a file by.

        `compress benchmark` measures.
        """
        image = normalise(self.data.eval_images[:1], self.data.mean, self.data.std)
        mean, std, threads = self.data.mean, self.data.std, self.threads
        files = (self.folder.onnx(), path)
        runtimes = [OrtRuntime(file, mean, std, threads=threads, stop_spinning=True) for file in files]
        times: tuple[list[int], list[int]] = ([], [])
        for number in range(_SPEED_RUNS + 5):
            for runtime, kept in zip(runtimes, times, strict=True):
                began = time.perf_counter_ns()
                runtime.run(image)
                if number >= 5:  # the first ones warm up
                    kept.append(time.perf_counter_ns() - began)
        return round(statistics.median(times[0]) / statistics.median(times[1]), 2)

    @contextlib.contextmanager
    def alone(
        self, path: Path, doing: str, hint: str, kind: type[CompressError] = InputError, *, execution: str = ""
    ) -> Iterator[None]:
        """Keeps the failure of a file for the end of the export: the other files do not depend on it.

        execution: the precision that fails to compute the file, where the file itself does not fail.
        """
        try:
            with attempting(doing, hint=hint, kind=kind):
                yield
        except Exception as error:  # noqa: BLE001 - it is raised once the other files are made
            self.errors[self.folder.key(path) + (f":{execution}" if execution else "")] = error

    def raise_failure(self) -> None:
        """Raises the first error that a file failed with, where one did."""
        for error in self.errors.values():
            raise error


def _in_float64(model: nn.Module, inputs: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The logits of the model in float64; `otherwise` of a module that insists on float32."""
    try:
        return TorchRuntime(copy.deepcopy(model).double(), (), ()).run(inputs)
    except RuntimeError:
        return otherwise


@contextlib.contextmanager
def gated(path: Path) -> Iterator[Path]:
    """Like `replacing`. Where a gate fails, an earlier export's file goes too, lest it be taken for this one."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except GateError:
        path.unlink(missing_ok=True)
        raise


def require_decided(record: ExportRecord) -> None:
    """Raises GateError where a file is UNDECIDED at its gate: it stays, though nothing shows that it is within."""
    for name, entry in record.files.items():
        if entry.undecided:
            raise GateError(
                f"{name} is {entry.undecided}", "Evaluate on more images, or allow more with --set export.KEY=VALUE"
            )
