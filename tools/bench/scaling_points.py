"""One point of tools/bench/scaling.py: the real loop at a size, timed, weighed and counted.

In: a Setting, and a folder with memory-mapped images. Out: a Point. Call it in a fresh process: its peak memory is that
of the process.
"""

import functools
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import median_seconds
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from workload import next_epoch, steps_of_an_epoch, training

from compress import models, recipe
from compress.data.augment import Images
from compress.system.interrupts import Flag
from compress.system.platform import resident_mb
from compress.training.state import Training, loss_parts

TEACHER = {"model": "resnet10t", "stem": "stock", "args": {"channels": [16, 32, 64, 128]}}
STUDENT = {"model": "resnet10t", "stem": "stock", "args": {"channels": [8, 16, 32, 64]}}
SLICES = 5


@dataclass(frozen=True)
class Setting:
    """What a point is measured at; one of these changes along an axis."""

    size: int = 32
    classes: int = 100
    batch: int = 64
    samples: int = 10_000


@dataclass(frozen=True)
class Point:
    """Of one sample: seconds, FLOPs, and bytes that the operators read and write. Of the process, in MB: own_mb is the
    most memory of its own above what it had before, mapped_mb what it had of mapped files, which the system takes
    back where it needs the room."""

    seconds: float
    flops: float
    bytes_moved: float
    own_mb: float
    mapped_mb: float


def write_images(folder: Path, *, samples: int, size: int) -> Path:
    """uint8 noise [samples, size, size, 3] as .npy, without ever holding it whole."""
    path = folder / f"images-{samples}-{size}.npy"
    if not path.exists():
        block = np.random.default_rng(0).integers(0, 256, (min(samples, 10_000), size, size, 3), dtype=np.uint8)
        pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(samples, size, size, 3))
        for start in range(0, samples, len(block)):
            pixels[start : start + len(block)] = block[: samples - start]
        pixels.flush()
    return path


def open_images(path: Path, classes: int) -> Images:
    """As compress.data.augment.on_device has them on a CPU: the arrays of the cache, memory-mapped."""
    pixels = torch.from_numpy(np.load(path, mmap_mode="c"))
    labels = torch.arange(len(pixels)) % classes
    return Images(pixels, labels, torch.full((3,), 0.5), torch.full((3,), 0.25))


def training_at(setting: Setting, images: Images) -> Training:
    settings = recipe.validate_recipe(
        {
            "data": {"name": "cifar100"},
            "teacher": TEACHER,
            "student": STUDENT,
            "supervision": {"method": "ka+dtd"},
            "train": {"batch_size": setting.batch, "precision": "fp32", "lr": 0.01, "epochs": 200},
        }
    )
    model = functools.partial(models.create_model, num_classes=setting.classes, image_size=setting.size)
    return training(settings, images, model(settings.teacher), model(settings.student))


def measure(setting: Setting, path: Path, seconds: float) -> Point:
    """Runs the loop for about `seconds`, in slices of a few steps whose median counts, and some steps more."""
    before = resident_mb("RssAnon")
    state = training_at(setting, open_images(path, setting.classes))
    run_steps(state, 2)
    one = median_seconds(lambda: run_steps(state, 1), 1)
    slice_steps = max(1, round(seconds / SLICES / one))
    a_slice = median_seconds(lambda: run_steps(state, slice_steps), SLICES)
    flops, moved = count_work(state)
    with Watch() as watch:
        run_steps(state, max(2, slice_steps // 2))
    return Point(
        seconds=a_slice / slice_steps / setting.batch,
        flops=flops / setting.batch,
        bytes_moved=moved / setting.batch,
        own_mb=watch.peak - before,
        mapped_mb=resident_mb("RssFile"),
    )


def run_steps(state: Training, count: int) -> None:
    """compress.training.loop.run_epoch, stopped after `count` steps; a new epoch begins where the old one is over."""
    assert count <= state.batches.steps_per_epoch
    if state.step + count > state.batches.steps_per_epoch:
        next_epoch(state)
    steps = steps_of_an_epoch(state)
    for _ in range(count + 1):  # it stops before every step
        next(steps, None)
    steps.close()


class Watch:
    """The most memory of its own that this process has meanwhile, in MB, looked at every 2 ms."""

    def __enter__(self) -> "Watch":
        self.peak, self._done = resident_mb("RssAnon"), threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.peak = max(self.peak, resident_mb("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class BytesMoved(TorchDispatchMode):
    """Sums what every operator reads and writes; a gather reads as much as it puts out, a view nothing."""

    GATHERS = (torch.ops.aten.index.Tensor, torch.ops.aten.index_select.default, torch.ops.aten.gather.default)

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            written = _bytes(out)
            self.total += written + (written if func in self.GATHERS else _bytes((args, kwargs)))
        return out


def _bytes(tree: Any) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def count_work(state: Training) -> tuple[float, float]:
    """FLOPs and bytes moved of one step: batch, teacher, student, loss, backward, optimiser."""
    moved = BytesMoved()
    with FlopCounterMode(display=False) as flops, moved:
        parts, _ = loss_parts(state, state.batches.get(state.epoch + 1, 0, Flag()))
        parts["loss"].backward()
        state.optimizer.step()
    state.optimizer.zero_grad()
    return float(flops.get_total_flops()), float(moved.total)
