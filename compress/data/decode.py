"""Decodes image files to uint8 RGB squares.

In: paths. Out: arrays. `python -m compress.data.decode` is a worker that decodes a part of a list into a shared array.
Workers are processes, because decoding small images holds Python's lock. They are started as commands, because
multiprocessing would import an unguarded script of the user again.
"""

import contextlib
import itertools
import json
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from compress.data.preprocessing import FILTERS, Interpolation
from compress.system.errors import InputError, first_line

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
MAX_PIXELS = 100_000_000
_WORTH_A_PROCESS = 2_000


@dataclass(frozen=True)
class Square:
    """How a picture becomes a square.

    Attributes:
        size: pixels a side.
        interpolation: with which the shorter side is resized, antialiased.
        crop_pct: the shorter side is resized to size / crop_pct, rounded down as timm does. The centre is cropped.
    """

    size: int
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The picture as uint8 [size, size, 3]."""
        image, size, kernel = rgb(image), self.size, FILTERS[self.interpolation]
        if self.crop_pct < 1:  # the sizes and offsets of timm's evaluation transform
            shorter = math.floor(size / self.crop_pct)
            width, height = (int(shorter * side / min(image.size)) for side in image.size)
            left, top = round((width - size) / 2), round((height - size) / 2)
            image = image.resize((width, height), kernel).crop((left, top, left + size, top + size))
        elif image.size != (size, size):
            image = ImageOps.fit(image, (size, size), kernel)
        return np.asarray(image, dtype=np.uint8)

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """The same from a file. EXIF rotation is applied. Raises InputError as `opened`."""
        with pillow_quiet(), opened(path) as image:
            return self(upright(image))


@contextlib.contextmanager
def pillow_quiet() -> Iterator[None]:
    """Hides warnings, such as Pillow's of damaged EXIF data, in all threads: Python's filters are of the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """The picture in a file, whose pixels Pillow reads when they are used.

    Raises:
        InputError: within the block, too: the file is missing, is no complete image, or has more than 100 million
            pixels. The message names it.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"image {path} has {image.width} x {image.height} pixels", "Is it a picture?")
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no image at {path}") from None
    except Exception as error:
        raise InputError(f"image {path} cannot be read ({_reason(error)})", "Replace it, or leave it out.") from error


def upright(image: Image.Image) -> Image.Image:
    """The picture as people see it: with its EXIF rotation applied."""
    image.load()
    return ImageOps.exif_transpose(image)


def rgb(image: Image.Image) -> Image.Image:
    """The picture with three channels of 8 bits."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    if image.mode in ("P", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def read_images(paths: Sequence[str], square: Square, out: Path) -> dict[int, str]:
    """Decodes all files, with as many workers as there are processors.

    What cannot be read does not end it, so that all of it is known at once. Its rows are black.

    Args:
        square: how each becomes a square.
        out: a new .npy file of uint8 [N, size, size, 3].

    Returns:
        Why images cannot be read, by row.

    Raises:
        InputError: a worker died.
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(paths), square.size, square.size, 3))
    with out.open("r+b") as file:  # a full disk raises here; later a write to the mapped file would kill the process
        os.posix_fallocate(file.fileno(), 0, out.stat().st_size)
    workers = min(len(os.sched_getaffinity(0)), max(1, len(paths) // _WORTH_A_PROCESS))
    if workers == 1:
        problems = _decode(paths, square, array)
    else:
        bounds = [len(paths) * k // workers for k in range(workers + 1)]
        jobs = [
            {"out": str(out), "first": low, "square": asdict(square), "paths": list(paths[low:high])}
            for low, high in itertools.pairwise(bounds)
        ]
        problems = _run_workers(jobs)
    array.flush()
    return problems


def _decode(paths: Sequence[str], square: Square, out: NDArray[np.uint8]) -> dict[int, str]:
    """Fills rows of `out`. Returns why images cannot be read, by row."""
    problems: dict[int, str] = {}
    for row, path in enumerate(paths):
        try:
            out[row] = square.read(path)
        except InputError as error:
            problems[row] = problem_of(error, path)
    return problems


def problem_of(error: InputError, path: str) -> str:
    """Why the image cannot be read, without its path."""
    return error.message.replace(f"no image at {path}", "is missing").replace(f"image {path} ", "")


def _run_workers(jobs: list[dict[str, Any]]) -> dict[int, str]:
    problems: dict[int, str] = {}
    command = [sys.executable, "-m", "compress.data.decode"]
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            process_group=0,  # Ctrl-C reaches only this process, which then ends the workers
        )
        for _ in jobs
    ]
    try:
        for process, job in zip(processes, jobs, strict=True):
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # the worker died: its exit status shows it below
                process.stdin.write(json.dumps(job))
                process.stdin.close()
        for process, job in zip(processes, jobs, strict=True):
            assert process.stdout
            answer = process.stdout.read()
            if process.wait() != 0:
                raise InputError("an image decoder died", "Was memory short?")
            problems |= {job["first"] + int(row): problem for row, problem in json.loads(answer).items()}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return problems


def _to_8_bit(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte, where Pillow clips at 255. Modes I and F count as 8-bit up to 255."""
    values = np.asarray(image).astype(np.float64)
    scale = 257.0 if image.mode.startswith("I;16") or values.max() > 255 else 1.0
    return Image.fromarray(np.clip(values / scale, 0, 255).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    text = first_line(error)
    return "not an image" if text.startswith("cannot identify") else text


def _worker() -> int:
    job = json.load(sys.stdin)
    array, square = np.load(job["out"], mmap_mode="r+", allow_pickle=False), Square(**job["square"])
    print(json.dumps(_decode(job["paths"], square, array[job["first"] :])))
    array.flush()
    return 0


if __name__ == "__main__":
    sys.exit(_worker())
