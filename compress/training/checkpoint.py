"""Checkpoints that are whole or not there, and the newest valid one.

A checkpoint is NAME.safetensors (tensors) and NAME.json (everything else, and a SHA-256 of both). The json is written
last: without it the checkpoint does not exist. NAME ends in that hash, so that nothing is written over another one.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from compress.system import files
from compress.system.errors import DivergedError, InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """tensors by dotted name; meta is JSON and holds at least epoch and step, from which training goes on."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, without it."""
        return {key[len(prefix) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{prefix}.")}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes a checkpoint atomically, then removes all but the newest `keep`.

    Raises:
        DivergedError: a weight is not finite; nothing is written.
        MachineError: the disk has no room.
    """
    step = f"epoch-{checkpoint.meta['epoch']:05d}-step-{checkpoint.meta['step']:06d}"
    # The range of an observer of torch.ao that has seen nothing yet is infinite.
    weights = [
        value
        for name, value in checkpoint.tensors.items()
        if value.is_floating_point() and not name.endswith((".min_val", ".max_val"))
    ]
    if not bool(torch.stack([value.isfinite().all() for value in weights]).all()):
        raise DivergedError(f"weights are not finite at epoch {checkpoint.meta['epoch']}", "Lower train.lr.")
    content = save({key: value.detach().cpu().contiguous() for key, value in checkpoint.tensors.items()})
    digest = _digest(content, checkpoint.meta)
    path = folder / f"{step}-{digest[:8]}.safetensors"
    files.write_bytes(path, content)
    files.write_json(path.with_suffix(".json"), {**checkpoint.meta, "sha256": digest})
    others = [name for name in _names(folder) if not name.startswith(f"{step}-")]
    kept = {path.stem, *others[max(0, len(others) - keep + 1) :]}
    for suffix in (".json", ".safetensors"):  # a checkpoint ends as it began: its marker is there only beside it
        for old in folder.glob(f"epoch-*{suffix}"):
            if old.stem not in kept:
                old.unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint, or None where there is none. Each newer one that is damaged is a warning.

    Raises:
        InputError: there are checkpoints, and none is valid.
    """
    names = _names(folder)
    for name in reversed(names):
        try:
            return _read(folder / f"{name}.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            logger.warning(f"checkpoint {folder / name} is damaged ({error}); trying the one before it")
    if names:
        raise InputError(f"none of the {len(names)} checkpoints in {folder} is valid", "Start anew in another folder.")
    return None


def has_checkpoints(folder: Path) -> bool:
    """Whether there are any, valid or not."""
    return bool(_names(folder))


def _names(folder: Path) -> list[str]:
    """Oldest first; a checkpoint whose marker is missing was never finished."""
    return sorted(path.stem for path in folder.glob("epoch-*-step-*.json"))


def _read(path: Path) -> Checkpoint:
    meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    content = path.read_bytes()
    if not isinstance(meta, dict) or {"epoch", "step", "sha256"} - meta.keys():
        raise ValueError("its marker is not whole")
    if meta.pop("sha256") != _digest(content, meta):
        raise ValueError("its hash differs")
    return Checkpoint(load(content), meta)


def _digest(content: bytes, meta: dict[str, Any]) -> str:
    return hashlib.sha256(content + json.dumps(meta, sort_keys=True).encode()).hexdigest()
