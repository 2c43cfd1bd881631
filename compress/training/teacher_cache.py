"""The teacher's logits for fixed augmentations ("views") of every training sample, kept on disk between runs.

In: what computes logits. Out: float16 [N, C], memory-mapped; a view is whole or not there.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.system import files
from compress.system.interrupts import Flag

_FORMAT = 1  # raise it when the same key would stand for other logits
_BATCH = 512


class TeacherViews:
    """`count` views of `samples` images, in the cache folder below a hash of `determined_by`.

    A view does not depend on how many others there are.

    Args:
        determined_by: everything that the logits depend on, as JSON.
    """

    def __init__(self, *, count: int, samples: int, device: torch.device, determined_by: dict[str, Any]) -> None:
        key = json.dumps({"format": _FORMAT, **determined_by}, sort_keys=True)
        self.count, self._samples, self._device = count, samples, device
        self.folder = files.cache_folder() / "teacher-logits" / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._open: tuple[int, Tensor] | None = None

    def logits(self, view: int, compute: Callable[[int, Tensor], Tensor], interrupted: Flag) -> Tensor:
        """The teacher's logits of one view, float16 [N, C] on the device.

        Args:
            compute: (view, rows int64 [B]) to logits [B, C]. It is called where the view is not kept yet.

        Raises:
            Interrupted: a signal came meanwhile.
            MachineError: the cache cannot be written.
        """
        if self._open is None or self._open[0] != view:
            path = self.folder / f"view-{view:04d}.npy"
            if (kept := self._read(path)) is None:
                self._write(path, lambda rows: compute(view, rows), interrupted)
                kept = self._read(path)
            assert kept is not None
            self._open = (view, torch.from_numpy(kept).to(self._device))
        return self._open[1]

    def _read(self, path: Path) -> np.ndarray | None:
        """The view as it lies on disk; None where it is absent or not what its marker says."""
        try:
            recorded = path.with_suffix(".sha256").read_text(encoding="ascii")
            if files.sha256_file(path) != recorded:
                return None
            return files.map_array(path)
        except (OSError, ValueError):
            return None

    def _write(self, path: Path, compute: Callable[[Tensor], Tensor], interrupted: Flag) -> None:
        """Batch by batch, so that the logits of many images and classes are never in memory together."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.cannot_write(self.folder, error) from error
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            for start in range(0, self._samples, _BATCH):
                interrupted.raise_if_set()
                rows = torch.arange(start, min(start + _BATCH, self._samples))
                part = compute(rows).to(torch.float16).cpu().numpy()
                if start == 0:
                    header = np.lib.format.header_data_from_array_1_0(part)
                    header["shape"] = (self._samples, *part.shape[1:])
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.tobytes())
        files.write_bytes(path.with_suffix(".sha256"), files.sha256_file(path).encode("ascii"))
