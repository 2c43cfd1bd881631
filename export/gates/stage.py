"""What the steps of an export share: what is exported, its limits, and how a file gets its final name."""

import contextlib
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from compress.data import Dataset
from compress.recipe import Export
from compress.system.errors import GateError
from compress.system.files import replacing, sha256_file
from export.folder import ExportFolder
from export.gates import parity
from export.records import CalibrationRecord, ExportRecord, FileRecord
from export.runtimes import OrtRuntime, Runtime

logger = logging.getLogger(__name__)


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
    use.
    """

    source: Source
    folder: ExportFolder
    settings: Export
    threads: int | None
    record: ExportRecord
    earlier: Mapping[str, FileRecord] = field(default_factory=dict)

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
        """Whether an earlier export left this file, from the same of everything that determines it, and intact."""
        name = self.folder.key(path)
        if name not in self.earlier:
            return False
        self.record.files[name] = self.earlier[name]
        logger.info(f"{path.name}: unchanged")
        return True

    def keep(self, path: Path, measured: Mapping[str, Any]) -> None:
        """Records a file that passed its gates, with what they measured."""
        entry = {"sha256": sha256_file(path), "bytes": path.stat().st_size, **measured}
        self.record.files[self.folder.key(path)] = FileRecord.model_validate(entry)
        logger.info(f"{self.folder.key(path)}: {path.stat().st_size / 1e6:.1f} MB")

    def note(
        self,
        *,
        calibration: CalibrationRecord | None = None,
        layer_sensitivity: dict[str, float] | None = None,
        failed: str | None = None,
    ) -> None:
        """Adds to the record what is known by now."""
        found = {"calibration": calibration, "layer_sensitivity": layer_sensitivity, "failed": failed}
        known = {name: value for name, value in found.items() if value is not None}
        self.record = self.record.model_copy(update=known)

    def check_accuracy(self, run: Runtime, max_drop: float, min_agreement: float, what: str) -> dict[str, Any]:
        """Agreement with FP32 and the paired drop of top-1, both on the whole evaluation split.

        Raises:
            GateError: one of them misses its limit. `what` names the file in the message.
        """
        logits = run(self.data.eval_images)
        agreement = parity.check_agreement(self.fp32_logits, logits, min_agreement, what)
        drop = parity.paired_drop(self.fp32_logits, logits, self.data.eval_labels)
        parity.check_drop(drop, max_drop, what)
        return {"agreement": agreement, "drop": drop}


@contextlib.contextmanager
def gated(path: Path) -> Iterator[Path]:
    """Like `replacing`. Where a gate fails, an earlier export's file goes too, lest it be taken for this one."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except GateError:
        path.unlink(missing_ok=True)
        raise
