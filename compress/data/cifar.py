"""CIFAR-100 as it is published: pickles, which are read without running code.

In: the folder. Out: a Source of pixels.
"""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from compress.data.source import Source, Split
from compress.system.errors import InputError


def read_cifar100(folder: Path) -> Source:
    """CIFAR-100 in its Python version: the files meta, train and test. Raises InputError where one is damaged."""
    meta = _load_cifar_pickle(folder / "meta")
    names = [str(name) for name in meta["fine_label_names"]]
    splits: dict[str, Split] = {}
    for name in ("train", "test"):
        batch = _load_cifar_pickle(folder / name)
        try:
            pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = [int(label) for label in batch["fine_labels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{folder / name} is not a CIFAR-100 batch ({error})", "Unpack the archive anew."
            ) from None
        if len(pixels) != len(labels) or not labels or not 0 <= min(labels) <= max(labels) < len(names):
            raise InputError(f"{folder / name}: images and labels do not fit together", "Unpack the archive anew.")
        splits[name] = Split(pixels, labels)
    return Source(names, splits["train"], splits["test"], "test")


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers and numpy arrays. It refuses every other name, so that no code can run."""

    _ALLOWED = frozenset(
        {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _load_cifar_pickle(path: Path) -> dict[str, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Unpack the archive anew.") from None
    except Exception as error:
        raise InputError(f"{path} is not a whole CIFAR-100 file ({error})", "Unpack the archive anew.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a CIFAR-100 file", "Unpack the archive anew.")
    return content
