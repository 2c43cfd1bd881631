"""Decodes image files to uint8 RGB squares.

In: paths. Out: arrays. `python -m compress.data.decode` is a worker that decodes a part of a list into a shared array.
Workers are processes, because decoding small images holds Python's lock. They are started as commands, because
multiprocessing would import an unguarded script of the user again.
"""

import contextlib
import itertools
import json
import math
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.bad_images import raise_if_of_the_machine
from compress.data.preprocessing import FILTERS, PADDED_MEAN, Fit, Interpolation, Preprocessing
from compress.data.rgb import rgb, upright
from compress.system import console, platform
from compress.system.child import module_command
from compress.system.errors import CompressError, InputError, MachineError, first_line

MAX_PIXELS = 100_000_000
_WORTH_A_PROCESS = 2_000
_SHOWN_EVERY = 50


@dataclass(frozen=True)
class Square:
    """How a picture becomes a square: timm's evaluation transform, to the bit.

    The picture is resized by its fit, and the centre is cut out. A picture that has that size already keeps its pixels.

    - crop: the shorter side becomes size / crop_pct. timm's crop_mode "center".
    - stretch: both sides do. "squash".
    - pad: the longer side does, and what is missing to a square gets the colour `fill`. "border".

    Attributes:
        size: pixels a side.
        interpolation: with which the picture is resized, antialiased.
        crop_pct: of what the picture is resized to, size / crop_pct rounded down.
        fit: one of the three.
        fill: RGB, of what pad adds.
    """

    size: int
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    fit: Fit = "crop"
    fill: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, size: int, seen: Preprocessing) -> Self:
        """The square of a model that sees pictures like that. What pad adds has the mean colour."""
        if seen.fit != "pad":
            return cls(size, seen.interpolation, seen.crop_pct, seen.fit)
        red, green, blue = (round(255 * value) for value in seen.mean or PADDED_MEAN)
        return cls(size, seen.interpolation, seen.crop_pct, seen.fit, (red, green, blue))

    @property
    def key(self) -> str:
        """For names of files: two squares that give other pixels have other keys."""
        padded = "-{}-{}-{}".format(*self.fill) if self.fit == "pad" else ""
        return f"{self.size}-{self.fit}{padded}-{self.interpolation}-{self.crop_pct:g}"

    @property
    def target(self) -> int:
        """Pixels of the side that is resized."""
        return math.floor(self.size / self.crop_pct)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """The width and height, in pixels, that a picture of that width and height is resized to."""
        sides = (width, height)
        if self.fit == "stretch":
            return self.target, self.target
        if self.fit == "pad":
            ratio = max(sides) / self.target
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        return self.target * width // min(sides), self.target * height // min(sides)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """The picture as uint8 [size, size, 3]."""
        image, size, kernel = rgb(image), self.size, FILTERS[self.interpolation]
        width, height = self.resized(*image.size)
        left, top = self._start(width), self._start(height)
        if width * height > MAX_PIXELS:  # a strip, of which the rest need not be made
            x, y = image.width / width, image.height / height
            image = image.resize((size, size), kernel, box=(left * x, top * y, (left + size) * x, (top + size) * y))
            return np.asarray(image, dtype=np.uint8)
        image = image.resize((width, height), kernel)
        if self.fit != "pad":
            return np.asarray(image.crop((left, top, left + size, top + size)), dtype=np.uint8)
        canvas = Image.new("RGB", (size, size), tuple(self.fill))
        canvas.paste(image, (-left, -top))
        return np.asarray(canvas, dtype=np.uint8)

    def _start(self, side: int) -> int:
        """Where the square begins on a side of so many pixels; below 0 where it is padded."""
        return round((side - self.size) / 2) if side >= self.size else -((self.size - side) // 2)

    def read(self, path: str | Path) -> NDArray[np.uint8]:
        """The same from a file. EXIF rotation is applied. Raises as `opened`."""
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
        MachineError: the same: memory, open files, disk or network fail, so nothing is known of the image.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"image {path} has {image.width} x {image.height} pixels", "Is it a picture?")
            yield image
    except CompressError:
        raise
    except FileNotFoundError:
        raise InputError(f"no image at {path}") from None
    except Exception as error:
        raise_if_of_the_machine(error, path)
        raise InputError(f"image {path} cannot be read ({_reason(error)})", "Replace it, or leave it out.") from error


def read_rgb(path: str | Path) -> NDArray[np.uint8]:
    """A file as uint8 [H, W, 3] at its own size. EXIF rotation is applied. Raises as `opened`."""
    with pillow_quiet(), opened(path) as image:
        return np.asarray(rgb(upright(image)), dtype=np.uint8)


def read_images(paths: Sequence[str], square: Square, out: Path) -> dict[int, str]:
    """Decodes all files, with as many workers as there are processors.

    What cannot be read does not end it, so that all of it is known at once. Its rows are black.

    Args:
        square: how each becomes a square.
        out: a new .npy file of uint8 [N, size, size, 3].

    Returns:
        Why images cannot be read, by row.

    Raises:
        MachineError: a worker died, or memory, open files, disk or network fail.
        OSError: the disk is full.
    """
    array = np.lib.format.open_memmap(out, mode="w+", dtype=np.uint8, shape=(len(paths), square.size, square.size, 3))
    with out.open("r+b") as file:  # a full disk raises here; later a write to the mapped file would kill the process
        platform.reserve_space(file, out.stat().st_size)
    workers = min(platform.usable_cpus(), max(1, len(paths) // _WORTH_A_PROCESS))
    with console.progress_bar("decoding", len(paths)) as bar:
        if workers == 1:
            problems = _read_part(array, 0, paths, square, bar.show)
        else:
            bounds = [len(paths) * k // workers for k in range(workers + 1)]
            jobs = [
                {"out": str(out), "first": low, "square": asdict(square), "paths": list(paths[low:high])}
                for low, high in itertools.pairwise(bounds)
            ]
            problems = _run_workers(jobs, bar.show)
    array.flush()
    return problems


def unreadable(paths: Sequence[str], square: Square) -> dict[int, str]:
    """Why images cannot be read, by row, without keeping any of them. A JPEG is decoded no larger than a square."""

    def problem(path: str) -> str | None:
        try:
            with opened(path) as image:
                image.draft("RGB", (square.size, square.size))
                rgb(upright(image))
        except InputError as error:
            return problem_of(error, path)
        return None

    with (
        console.progress_bar("looking at pictures", len(paths)) as bar,
        ThreadPoolExecutor(platform.usable_cpus()) as threads,
        pillow_quiet(),
    ):
        found = {}
        for row, what in enumerate(threads.map(problem, paths)):
            if what is not None:
                found[row] = what
            if row % _SHOWN_EVERY == 0:
                bar.show(row)
    return found


def problem_of(error: InputError, path: str) -> str:
    """Why the image cannot be read, without its path."""
    return error.message.replace(f"no image at {path}", "is missing").replace(f"image {path} ", "")


def _read_part(
    array: NDArray[np.uint8], first: int, paths: Sequence[str], square: Square, show: Callable[[int], None]
) -> dict[int, str]:
    """Fills the rows from `first` on. Returns why images cannot be read, by row."""
    problems: dict[int, str] = {}
    for number, path in enumerate(paths):
        try:
            array[first + number] = square.read(path)
        except InputError as error:
            problems[first + number] = problem_of(error, path)
        if number % _SHOWN_EVERY == 0:
            show(number)
    return problems


def _run_workers(jobs: list[dict[str, object]], show: Callable[[int], None]) -> dict[int, str]:
    """What `_read_part` returns, of all workers.

    A worker writes how far it is, and at last what it found, or the message and hint of a MachineError.
    """
    command = module_command("compress.data.decode")
    processes = [
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **platform.without_keyboard(),  # Ctrl-C reaches only this process, which then ends the workers
        )
        for _ in jobs
    ]
    done = [0] * len(jobs)

    def follow(number: int) -> dict[int, str]:
        process, answer = processes[number], None
        assert process.stdout
        for line in process.stdout:
            answer = json.loads(line)
            if isinstance(answer, int):
                done[number] = answer
                show(sum(done))
        if isinstance(answer, list):
            raise MachineError(*answer)
        if process.wait() != 0 or not isinstance(answer, dict):
            raise MachineError("an image decoder died", "Was memory short?")
        return {int(row): problem for row, problem in answer.items()}

    try:
        for process, job in zip(processes, jobs, strict=True):
            assert process.stdin
            with contextlib.suppress(BrokenPipeError):  # the worker died: its exit status shows it below
                process.stdin.write(json.dumps(job))
                process.stdin.close()
        with ThreadPoolExecutor(len(jobs)) as threads:
            return {row: problem for found in threads.map(follow, range(len(jobs))) for row, problem in found.items()}
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _reason(error: Exception) -> str:
    text = first_line(error)
    return "not an image" if text.startswith("cannot identify") else text


def _worker() -> None:
    job = json.load(sys.stdin)
    array, square = np.load(job["out"], mmap_mode="r+", allow_pickle=False), Square(**job["square"])
    try:
        problems = _read_part(array, job["first"], job["paths"], square, lambda done: print(done, flush=True))
    except MachineError as error:
        print(json.dumps([error.message, error.hint]))
        return
    array.flush()
    print(json.dumps(problems))


if __name__ == "__main__":
    _worker()
