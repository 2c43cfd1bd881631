"""What the steps of an export share: the images of the run, its limits, and how a file gets its final name."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.data import Dataset
from compress.recipe import Export
from compress.system.errors import GateError
from compress.system.files import replacing, sha256_file
from export.gates import parity
from export.runtimes import OrtRuntime, Runtime


def record_file(name: str) -> str:
    """export.json is the student's; another model's is named after it."""
    return "export.json" if name == "student" else f"{name}.export.json"


@dataclass
class Stage:
    """One export. `record` becomes export.json; `earlier` holds the entries of files that need not be made again.

    `input_ranges`: what training has settled of INT8, (lowest, highest) input by layer; None where it has not.
    """

    name: str
    out_dir: Path
    data: Dataset
    settings: Export
    threads: int | None
    input_ranges: Mapping[str, Sequence[float]] | None
    log: Callable[[str], None]
    record: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def fp32_logits(self) -> np.ndarray:
        """The FP32 file's on the evaluation split."""
        return self.ort(self.path(".onnx"))(self.data.eval_images)

    @property
    def record_path(self) -> Path:
        return self.out_dir / record_file(self.name)

    def path(self, suffix: str) -> Path:
        return self.out_dir / f"{self.name}{suffix}"

    def ort(self, path: Path, *, literal: bool = False) -> OrtRuntime:
        return OrtRuntime(path, self.data.mean, self.data.std, threads=self.threads, literal=literal)

    def unchanged(self, path: Path) -> bool:
        """Whether an earlier export left this file, from the same of everything that determines it, and intact."""
        if path.name not in self.earlier:
            return False
        self.record["files"][path.name] = self.earlier[path.name]
        self.log(f"{path.name}: unchanged")
        return True

    def keep(self, path: Path, measured: Mapping[str, Any]) -> None:
        entry = {"sha256": sha256_file(path), "bytes": path.stat().st_size, **measured}
        self.record["files"][path.name] = entry
        self.log(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB")

    def check_accuracy(self, run: Runtime, max_drop: float, min_agreement: float, what: str) -> dict[str, Any]:
        """Agreement with FP32 and the paired drop of top-1, both on the whole evaluation split."""
        logits = run(self.data.eval_images)
        agreement = parity.check_agreement(self.fp32_logits, logits, min_agreement, what)
        drop = parity.paired_drop(self.fp32_logits, logits, self.data.eval_labels)
        parity.check_drop(drop, max_drop, what)
        return {"agreement": agreement, "drop": asdict(drop)}


@contextlib.contextmanager
def gated(path: Path) -> Iterator[Path]:
    """Like `replacing`; where a gate fails, an earlier export's file goes too, lest it be taken for this one."""
    try:
        with replacing(path) as temporary:
            yield temporary
    except GateError:
        path.unlink(missing_ok=True)
        raise
