"""Checkpoints that are whole or not there, and the newest valid one.

A checkpoint is NAME.safetensors (tensors) and NAME.json (everything else, and the SHA-256 of the tensors). The json is
written last: without it the checkpoint does not exist.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from compress import files
from compress.errors import DivergedError, InputError


@dataclass(frozen=True)
class Checkpoint:
    """tensors by dotted name; meta is JSON and holds at least epoch and step, from which training goes on."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, without it."""
        return {key[len(prefix) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{prefix}.")}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes atomically, then removes all but the newest `keep`. Raises MachineError where there is no room.

    Non-finite weights are never written: DivergedError.
    """
    name = f"epoch-{checkpoint.meta['epoch']:05d}-step-{checkpoint.meta['step']:06d}"
    trained = {key: value for key, value in checkpoint.tensors.items() if key.startswith(("model.", "terms."))}
    weights = [value for value in trained.values() if value.is_floating_point()]
    if not bool(torch.stack([value.isfinite().all() for value in weights]).all()):
        raise DivergedError(f"weights are not finite at epoch {checkpoint.meta['epoch']}", "Lower train.lr.")
    content = save({key: value.detach().cpu().contiguous() for key, value in checkpoint.tensors.items()})
    path = folder / f"{name}.safetensors"
    marker = path.with_suffix(".json")
    marker.unlink(missing_ok=True)  # a rewrite of the same step must not pair old marker and new tensors
    files.write_bytes(path, content)
    digest = files.sha256_file(path)
    files.write_json(marker, {**checkpoint.meta, "sha256": digest})
    for old in _names(folder)[:-keep]:
        (folder / f"{old}.json").unlink(missing_ok=True)
        (folder / f"{old}.safetensors").unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path, *, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest valid checkpoint, with a warning for each newer one that is damaged; None where there is none.

    Raises InputError where there are checkpoints and none is valid.
    """
    names = _names(folder)
    for name in reversed(names):
        try:
            return _read(folder / f"{name}.safetensors")
        except (OSError, ValueError, KeyError) as error:
            warn(f"checkpoint {folder / name} is damaged ({error}); trying the one before it")
    if names:
        raise InputError(f"none of the {len(names)} checkpoints in {folder} is valid", "Start anew in another folder.")
    return None


def _names(folder: Path) -> list[str]:
    """Oldest first; a checkpoint whose marker is missing was never finished."""
    return sorted(path.stem for path in folder.glob("epoch-*-step-*.json"))


def _read(path: Path) -> Checkpoint:
    meta = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    content = path.read_bytes()
    if not isinstance(meta, dict) or {"epoch", "step", "sha256"} - meta.keys():
        raise ValueError("its marker is not whole")
    if hashlib.sha256(content).hexdigest() != meta.pop("sha256"):
        raise ValueError("its hash differs")
    return Checkpoint(load(content), meta)
