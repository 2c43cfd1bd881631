"""Where a training writes.

In: the folder of a run or of a trained teacher. Out: the paths in it. Nothing here imports torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True)
class TrainingFiles:
    """Where a training writes: a file for metrics and a folder for checkpoints."""

    metrics: Path
    checkpoints: Path

    @classmethod
    def below(cls, folder: Path) -> Self:
        """Under their usual names, in the folder of a run or of a trained teacher."""
        return cls(folder / "metrics.jsonl", folder / "checkpoints")
