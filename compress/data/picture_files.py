"""Pictures that can be opened one by one: in files, or as pixels.

In: paths or pixels. Out: Pillow images. The paths are one block of bytes, which can be memory-mapped: a list of a
million strings would take 150 MB in each process that holds it.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.decode import Square, opened


@dataclass(frozen=True)
class PictureFiles:
    """N pictures. Indexing decodes them: `pictures[rows]` is uint8 [len(rows), size, size, 3].

    Attributes:
        folder: to which the paths are relative. Absolute paths stay what they are.
        paths: uint8, all paths in UTF-8, one after the other.
        ends: int64 [N], where each path ends.
        square: how indexing makes a square of each picture.
    """

    folder: str
    paths: NDArray[np.uint8]
    ends: NDArray[np.int64]
    square: Square

    @classmethod
    def of(cls, paths: Sequence[str], folder: Path, square: Square) -> Self:
        """Of paths below the folder or elsewhere."""
        start = f"{folder}/"
        here = os.getcwd()
        names = (path[len(start) :] if path.startswith(start) else os.path.join(here, path) for path in paths)
        relative = [name.encode("utf-8", "surrogateescape") for name in names]
        ends = np.cumsum([len(path) for path in relative], dtype=np.int64)
        return cls(str(folder), np.frombuffer(b"".join(relative), dtype=np.uint8), ends, square)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, size, size, 3)."""
        return len(self), self.square.size, self.square.size, 3

    def path(self, row: int) -> str:
        begin = int(self.ends[row - 1]) if row else 0
        name = self.paths[begin : int(self.ends[row])].tobytes().decode("utf-8", "surrogateescape")
        return str(Path(self.folder, name))

    def followed_by(self, others: Self, rows: NDArray[np.int64]) -> Self:
        """These pictures, and those rows of the others after them, as squares of the same kind."""
        begins = np.concatenate([[0], others.ends[:-1]])
        root = np.frombuffer(f"{Path(others.folder).absolute()}/".encode("utf-8", "surrogateescape"), dtype=np.uint8)
        parts = [np.concatenate([root, others.paths[begins[row] : others.ends[row]]]) for row in rows]
        ends = self.ends[-1] + np.cumsum([len(part) for part in parts], dtype=np.int64)
        return replace(self, paths=np.concatenate([self.paths, *parts]), ends=np.concatenate([self.ends, ends]))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> NDArray[np.uint8]:
        """uint8 [B, size, size, 3], or [size, size, 3] for a single row.

        Args:
            index: a row, a slice, int64 [B], or bool [N].

        Raises:
            InputError: a picture cannot be read.
            MachineError: memory, open files, disk or network fail.
        """
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            return self.square.read(self.path(int(rows)))
        out = np.empty((len(rows), *self.shape[1:]), dtype=np.uint8)
        for place, row in enumerate(rows.tolist()):
            out[place] = self.square.read(self.path(row))
        return out

    @contextmanager
    def opened(self, row: int) -> Iterator[Image.Image]:
        """The picture of that row, as its file has it. Raises InputError as `compress.data.decode.opened`."""
        with opened(self.path(row)) as image:
            yield image


@dataclass(frozen=True)
class PixelPictures:
    """N pictures whose pixels are in memory, or memory-mapped.

    Attributes:
        pixels: uint8 [N, H, W, 3].
        square: how a picture becomes a square.
    """

    pixels: NDArray[np.uint8]
    square: Square

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """uint8 [B, H, W, 3]."""
        return self.pixels[rows]

    @contextmanager
    def opened(self, row: int) -> Iterator[Image.Image]:
        """The picture of that row."""
        yield Image.fromarray(self.pixels[row])
