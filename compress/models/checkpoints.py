"""Reads the weights out of checkpoints of many tools.

In: a file or a folder. Out: tensors by the names that the model has. It finds which entries are the weights, and which
prefix is before their names. It never runs code from a file.
"""

import argparse
import json
import logging
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from compress.models.folder import WEIGHTS
from compress.system.errors import InputError, first_line

logger = logging.getLogger(__name__)

EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
"""Where timm, DeiT and others keep the moving average. Their published accuracy is that of the moving average."""
STATE_KEYS = ("state_dict", "model", "model_state_dict", "net", "weights", "params")
_TORCH_WEIGHTS = "pytorch_model.bin"
_INDEXES = (f"{WEIGHTS}.index.json", f"{_TORCH_WEIGHTS}.index.json")
_LFS = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_MAX_HEADER_BYTES = 100_000_000
"""Of safetensors, as that library limits it."""


def weights_in(folder: Path) -> Path:
    """The file of weights in a model's folder: model.safetensors, pytorch_model.bin, or the index of their shards."""
    names = (WEIGHTS, _INDEXES[0], _TORCH_WEIGHTS, _INDEXES[1])
    return next((folder / name for name in names if (folder / name).is_file()), folder / WEIGHTS)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The weights in a file, by the names that the file uses.

    Args:
        path: safetensors, a torch file of tensors, or the index of shards of either. A torch file may hold more than
            weights, as training checkpoints of timm and Lightning do. Where it has several sets of weights, the moving
            average (EMA) is taken, and a log line says so.

    Raises:
        InputError: the file is missing or not whole, holds code or no weights, or a weight is not finite.
    """
    weights = _chosen(_content(path), path)
    for name, value in weights.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: {name} is not finite", "Take a checkpoint from before training diverged.")
    return weights


def without_prefix(weights: Mapping[str, Tensor], expected: Collection[str], path: Path) -> dict[str, Tensor]:
    """The weights without the prefix of a wrapper, such as `module.`, `_orig_mod.` or `model.`.

    Nothing changes unless one prefix gives all expected names. Weights without that prefix are then left out.

    Args:
        weights: tensors by the names in the file.
        expected: the names in the model.
        path: for messages.

    Raises:
        InputError: several prefixes fit, so the file holds several models.
    """
    if not expected or any(name in weights for name in expected):
        return dict(weights)
    longest = max(expected, key=len)
    candidates = {name[: -len(longest)] for name in weights if name.endswith(f".{longest}")}
    fitting = sorted(prefix for prefix in candidates if all(prefix + name in weights for name in expected))
    if len(fitting) > 1:
        raise InputError(
            f"{path} holds several models: {', '.join(prefix.rstrip('.') for prefix in fitting)}",
            "Save the one that is meant in a file of its own.",
        )
    if not fitting:
        return dict(weights)
    (prefix,) = fitting
    kept = {name[len(prefix) :]: value for name, value in weights.items() if name.startswith(prefix)}
    left_out = f", and {len(weights) - len(kept)} others are left out" if len(kept) < len(weights) else ""
    logger.info(f"weights: {path}: {prefix!r} before the names is taken off{left_out}")
    return kept


def _content(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise InputError(f"{path} is a pointer of Git LFS, not the weights", "Fetch them with `git lfs pull`.")
        if path.name in _INDEXES:
            return _shards(path)
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's train.py saves its arguments
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"no weights at {path}") from None
    except InputError:
        raise
    except Exception as error:
        if _is_cut_short(path, error):
            raise InputError(
                f"{path} is not whole: its end is missing", "Delete it, and download or copy it again."
            ) from error
        raise InputError(
            f"{path} does not hold plain weights ({first_line(error)})",
            "Convert it to safetensors where you trust it.",
        ) from error


def _shards(index: Path) -> dict[str, Tensor]:
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    weights: dict[str, Tensor] = {}
    for name in sorted(names):
        if Path(name).name != name:
            raise InputError(f"{index} names {name}, which is outside of its folder")
        if not (index.parent / name).is_file():
            raise InputError(f"{index} names {name}, which is missing", "Download the rest of the shards.")
        weights |= _content(index.parent / name)
    return weights


def _is_cut_short(path: Path, error: Exception) -> bool:
    """Whether a file that could not be read is the beginning of a longer one, as a download leaves it."""
    if isinstance(error, EOFError) or "unexpected EOF" in str(error):  # torch's format before 1.6
        return True
    try:
        with path.open("rb") as file:
            start, size = file.read(8), path.stat().st_size
            if path.suffix.lower() != ".safetensors":
                return start.startswith(_ZIP) and not zipfile.is_zipfile(path)
            length = int.from_bytes(start, "little")
            if length > _MAX_HEADER_BYTES:  # it is another format
                return False
            if len(start) < 8 or size < 8 + length:
                return True
            entries = json.loads(file.read(length)).items()
            return size < 8 + length + max(
                about["data_offsets"][1] for name, about in entries if name != "__metadata__"
            )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return False


def _chosen(content: Any, path: Path) -> dict[str, Tensor]:
    if _are_weights(content):
        return dict(content)
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not weights by name", "A state_dict is expected.")
    found = [key for key, value in content.items() if _are_weights(value)]
    known = [key for key in (*EMA_KEYS, *STATE_KEYS) if key in found]
    if not known and len(found) != 1:
        keys = ", ".join(repr(key) for key in content) or "nothing"
        raise InputError(f"{path} does not hold weights by name: it has {keys}", "A state_dict is expected.")
    (key, *others) = known or found
    if others or key not in STATE_KEYS[:2]:
        beside = f", of {' and '.join(map(repr, [key, *others]))}" if others else ""
        logger.info(f"weights: {path}: {key!r} is taken{beside}")
    return dict(content[key])


def _are_weights(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(isinstance(v, Tensor) for v in content.values())
