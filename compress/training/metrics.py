"""metrics.jsonl, with one line for each epoch.

In: a dictionary for each epoch. Out: lines in the file, and the lines that are already there.
"""

import json
from pathlib import Path
from typing import Any

import torch

from compress.system import files, platform
from compress.training.trackers import Trackers


class MetricsLog:
    """The lines of the file at `path`. Lines that are kept also go to the trackers that do not have them yet."""

    def __init__(self, path: Path, trackers: Trackers | None = None) -> None:
        self.path = path
        self._trackers = trackers or Trackers()

    def keep_before(self, phase: str, epoch: int) -> None:
        """Removes the phase's lines from `epoch` on, and a last line that was not written to its end.

        Training is about to write them again.
        """
        lines = read_metrics(self.path)
        kept = [line for line in lines if line["phase"] != phase or line["epoch"] < epoch]
        files.write_bytes(self.path, "".join(map(_as_line, kept)).encode())
        self._trackers.log([line for line in kept if line["phase"] == phase])

    def replace_phase(self, phase: str, source: Path) -> None:
        """Replaces the phase's lines by all lines of another log, which come first."""
        own = read_metrics(source)
        lines = own + [line for line in read_metrics(self.path) if line["phase"] != phase]
        files.write_bytes(self.path, "".join(map(_as_line, lines)).encode())
        self._trackers.log(own)

    def write(self, line: dict[str, Any]) -> None:
        """Appends one line to the file. Raises MachineError where the file cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_line(line))
        except OSError as error:
            raise files.cannot_write(self.path, error) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics file, or [] without a file. A last line that is not complete is left out."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            break
        if not isinstance(line, dict) or not {"phase", "epoch"} <= line.keys():
            break
        lines.append(line)
    return lines


def peak_memory_mb(device: torch.device) -> float:
    """The peak memory in MB: of the GPU, or the resident memory of this process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return platform.peak_memory_mb()


def _as_line(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
