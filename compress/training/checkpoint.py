"""Checkpoints that are complete or absent.

In: tensors and JSON. Out: two files, and later the newest valid pair.

- NAME.safetensors holds the tensors.
- NAME.json holds everything else and a SHA-256 of both. It is written last: without it the checkpoint does not exist.
- NAME ends in that hash, so that no checkpoint overwrites another one.
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
from compress.system.modules import unshared

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        tensors: by dotted name.
        meta: JSON. It holds at least `epoch` and `step`, where training continues.
    """

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without that prefix."""
        return {key[len(prefix) + 1 :]: value for key, value in self.tensors.items() if key.startswith(f"{prefix}.")}


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes a checkpoint atomically, then removes all but the newest `keep`.

    Returns:
        The .safetensors file.

    Raises:
        DivergedError: a weight is not finite. Nothing is written.
        MachineError: the disk is full or the folder cannot be written.
    """
    step = f"epoch-{checkpoint.meta['epoch']:05d}-step-{checkpoint.meta['step']:06d}"
    # An observer of torch.ao that has seen no data has an infinite range.
    weights = [
        value
        for name, value in checkpoint.tensors.items()
        if value.is_floating_point() and not name.endswith((".min_val", ".max_val"))
    ]
    # Of an optimiser some values may lie on the host and others on the GPU.
    if not bool(torch.stack([value.isfinite().all().cpu() for value in weights]).all()):
        raise DivergedError(f"weights are not finite at epoch {checkpoint.meta['epoch']}", "Lower train.lr.")
    content = save(unshared(checkpoint.tensors))
    digest = _digest(content, checkpoint.meta)
    path = folder / f"{step}-{digest[:8]}.safetensors"
    files.write_bytes(path, content)
    files.write_json(path.with_suffix(".json"), {**checkpoint.meta, "sha256": digest})
    others = [name for name in _names(folder) if not name.startswith(f"{step}-")]
    kept = {path.stem, *others[max(0, len(others) - keep + 1) :]}
    for suffix in (".json", ".safetensors"):  # the marker goes first: it must never be there without its tensors
        for old in folder.glob(f"epoch-*{suffix}"):
            if old.stem not in kept:
                old.unlink(missing_ok=True)
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint, or None where there is none. Each newer one that is damaged gives a warning.

    Raises:
        InputError: there are checkpoints, but none is valid.
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
    """Whether the folder has any checkpoint, valid or not."""
    return bool(_names(folder))


def _names(folder: Path) -> list[str]:
    """Names of finished checkpoints, oldest first. One without a marker was never finished."""
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
