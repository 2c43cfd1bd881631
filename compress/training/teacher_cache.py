"""Keeps the teacher's logits on disk between runs, for a fixed number of augmentations ("views") of each image.

In: a function that computes logits. Out: float16 [N, C], memory-mapped. A view is complete or absent.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from compress.data.caches import mark_used
from compress.system import files
from compress.system.hashes import sha256_json
from compress.system.interrupts import Flag

_POLL_S = 0.2
_FORMAT = 3  # raise it when the same key would mean other logits


class TeacherViews:
    """`count` views of `samples` images. They are in the cache folder, below a hash of `determined_by`.

    Args:
        count: views of each image. A view does not depend on how many others there are.
        samples: N, the number of images.
        of_a_pass: images that go through the teacher at once.
        device: where `logits` returns them.
        determined_by: everything that the logits depend on, as JSON.
    """

    def __init__(
        self, *, count: int, samples: int, of_a_pass: int, device: torch.device, determined_by: dict[str, Any]
    ) -> None:
        key = sha256_json({"format": _FORMAT, **determined_by})[:16]
        self.count, self._samples, self._of_a_pass, self._device = count, samples, of_a_pass, device
        self.folder = files.cache_folder() / "teacher-logits" / key
        self._open: tuple[int, Tensor] | None = None

    def logits(
        self, view: int, compute: Callable[[int, Sequence[Tensor]], Iterable[Tensor]], interrupted: Flag
    ) -> Tensor:
        """The teacher's logits for one view of all images. They are computed where the cache does not have them.

        Args:
            view: from 0.
            compute: (view, rows int64 [B] of each batch) to logits [B, C] of each batch.
            interrupted: is asked between batches.

        Returns:
            float16 [N, C], on the device.

        Raises:
            Interrupted: a signal arrived.
            MachineError: the cache cannot be written.
        """
        if self._open is None or self._open[0] != view:
            path = self.folder / f"view-{view:04d}.npy"
            if (kept := self._read(path)) is None:
                with self._alone(interrupted):
                    if (kept := self._read(path)) is None:
                        self._write(path, lambda batches: compute(view, batches), interrupted)
                        kept = self._read(path)
            assert kept is not None
            mark_used(self.folder)
            self._open = (view, torch.from_numpy(kept).to(self._device))
        return self._open[1]

    @contextmanager
    def _alone(self, interrupted: Flag) -> Iterator[None]:
        """While a view is written other runs wait for it, and `compress data prune` leaves it alone."""
        lock = FileLock(f"{self.folder}.lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            while not lock.is_locked:
                interrupted.raise_if_set()
                with suppress(Timeout):
                    lock.acquire(timeout=_POLL_S)
        except OSError as error:
            raise files.cannot_write(self.folder, error) from error
        try:
            yield
        finally:
            lock.release()

    def _read(self, path: Path) -> np.ndarray | None:
        """The view on disk; None where it is absent or differs from its hash."""
        try:
            recorded = path.with_suffix(".sha256").read_text(encoding="ascii")
            if files.sha256_file(path) != recorded:
                return None
            return files.map_array(path)
        except (OSError, ValueError):
            return None

    def _write(self, path: Path, compute: Callable[[Sequence[Tensor]], Iterable[Tensor]], interrupted: Flag) -> None:
        """Writes batch by batch, so that the logits of all images are never in memory together."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.cannot_write(self.folder, error) from error
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            interrupted.raise_if_set()
            for number, logits in enumerate(compute(torch.arange(self._samples).split(self._of_a_pass))):
                interrupted.raise_if_set()
                part = logits.to(torch.float16).cpu().numpy()
                if number == 0:
                    header = np.lib.format.header_data_from_array_1_0(part)
                    header["shape"] = (self._samples, *part.shape[1:])
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(part.tobytes())
        files.write_bytes(path.with_suffix(".sha256"), files.sha256_file(path).encode("ascii"))
