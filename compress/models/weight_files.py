"""Reads a file of weights without running code from it.

In: a safetensors file, a torch file, or the index of shards of either. Out: what it holds. The format is that of the
content, whatever the file is called.
"""

import argparse
import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from compress.models.folder import WEIGHTS
from compress.system.errors import InputError, first_line

_TORCH_WEIGHTS = "pytorch_model.bin"
_INDEXES = (f"{WEIGHTS}.index.json", f"{_TORCH_WEIGHTS}.index.json")
_LFS = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
_MAX_HEADER_BYTES = 100_000_000
"""Of safetensors, as that library limits it."""
_NOT_ALLOWED = re.compile(r"GLOBAL (\S+) was not an allowed global")


def weights_in(folder: Path) -> Path:
    """The file of weights in a model's folder: model.safetensors, pytorch_model.bin, or the index of their shards."""
    names = (WEIGHTS, _INDEXES[0], _TORCH_WEIGHTS, _INDEXES[1])
    return next((folder / name for name in names if (folder / name).is_file()), folder / WEIGHTS)


def file_content(path: Path) -> Any:
    """What a file holds: tensors by name, or what else torch saved beside them.

    Raises:
        InputError: the file is missing or not whole, is of another kind, or holds code.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise InputError(f"{path} is a pointer of Git LFS, not the weights", "Fetch them with `git lfs pull`.")
        if path.name in _INDEXES:
            return _shards(path)
        if _format(path) == "safetensors":
            return load_file(path)
        safe = torch.serialization.safe_globals([argparse.Namespace])  # timm's train.py saves its arguments
        with safe, warnings.catch_warnings(), path.open("rb") as file:  # by its path torch goes by the name alone
            warnings.simplefilter("ignore")  # what torch guesses of a file of another kind
            return torch.load(file, map_location="cpu", weights_only=True)
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
            f"{path} does not hold plain weights ({_reason(error)})", "Convert it to safetensors where you trust it."
        ) from error


def _format(path: Path) -> Literal["safetensors", "torch"]:
    """By the first bytes. Where these say nothing, by the name."""
    with path.open("rb") as file:
        start = file.read(9)
    if int.from_bytes(start[:8], "little") <= _MAX_HEADER_BYTES and start[8:] == b"{":
        return "safetensors"
    if start.startswith((_ZIP, _PICKLE)):
        return "torch"
    return "safetensors" if path.suffix.lower() == ".safetensors" else "torch"


def _reason(error: Exception) -> str:
    """Why torch or safetensors cannot read it. torch's own words advise to run the code in the file."""
    text = str(error)
    if found := _NOT_ALLOWED.search(text):
        return f"it holds code: {found[1]}"
    if "TorchScript" in text:
        return "it is a TorchScript archive, which is code"
    if "weights_only" in text:
        return "it is neither safetensors nor a torch file of tensors"
    return first_line(error)


def _shards(index: Path) -> dict[str, Tensor]:
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    weights: dict[str, Tensor] = {}
    for name in sorted(names):
        if Path(name).name != name:
            raise InputError(f"{index} names {name}, which is outside of its folder")
        if not (index.parent / name).is_file():
            raise InputError(f"{index} names {name}, which is missing", "Download the rest of the shards.")
        weights |= file_content(index.parent / name)
    return weights


def _is_cut_short(path: Path, error: Exception) -> bool:
    """Whether a file that could not be read is the beginning of a longer one, as a download leaves it."""
    if isinstance(error, EOFError) or "unexpected EOF" in str(error):  # torch's format before 1.6
        return True
    try:
        kind = _format(path)
        with path.open("rb") as file:
            start, size = file.read(8), path.stat().st_size
            if kind == "torch":
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
