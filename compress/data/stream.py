"""Training images that are decoded from their files for every use, so that memory does not grow with their number.

In: pictures, and the rows of each batch. Out: float32 batches on the device. For a GPU, worker processes decode the
next batches meanwhile. On a CPU the training itself uses all processors, so threads decode a batch when it is needed:
beside it, workers would only take turns with it.
"""

import functools
import signal
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from compress.data.augment import normalize
from compress.data.decode import pillow_quiet
from compress.data.erasing import erased
from compress.data.picture_files import PictureFiles, PixelPictures
from compress.data.training_picture import TrainingPicture
from compress.recipe import Augment
from compress.system import platform
from compress.system.errors import CompressError
from compress.system.seeds import stream

_AHEAD = 2  # batches that each worker decodes ahead
_MOST_WORKERS = 16


@dataclass(frozen=True)
class StreamedImages:
    """A split to train on, in its files.

    Attributes:
        pictures: that can be opened one by one.
        labels: int64 [N], on the device.
        mean: float32 [3], of channels in 0..1.
        std: float32 [3], of channels in 0..1.
        unlabeled: rows without a label, which come last.
        ahead: whether processes decode the next batches while the device computes. Else threads decode each batch
            when it is needed.
        processes: of the training that share the processors of this machine.
    """

    pictures: PictureFiles | PixelPictures
    labels: Tensor
    mean: Tensor
    std: Tensor
    unlabeled: int = 0
    ahead: bool = False
    processes: int = 1
    _threads: list[ThreadPoolExecutor] = field(default_factory=list, repr=False, compare=False)

    @property
    def labeled(self) -> int:
        """Rows with a label."""
        return len(self.labels) - self.unlabeled

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.pictures.square.size

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def normalized(self, rows: slice) -> Tensor:
        """The rows as float32 [B, 3, H, W] in channels_last memory, without augmentation."""
        return normalize(torch.from_numpy(self.pictures[rows]).to(self.device), self.mean, self.std)

    def batches(self, rows: Sequence[Tensor], augment: Augment, *, seed: int, epoch: int) -> Iterator[Tensor]:
        """Batch after batch, augmented.

        Args:
            rows: int64 [B] of each batch.
            augment: resolved (`compress.data.resolve_augment`).
            seed: of the training.
            epoch: the epoch, or the number of the view where the teacher's logits are cached.

        Yields:
            float32 [B, 3, H, W] in channels_last memory.

        Raises:
            InputError: a picture cannot be read.
            MachineError: memory, open files, disk or network fail.
        """
        view = TrainingPicture(self.pictures.square, augment, self._fill)
        keyed = _Keyed(rows, seed, epoch)
        decoded = self._by_workers(view, keyed) if self.ahead else self._by_threads(view, keyed)
        for batch, pixels in zip(rows, decoded, strict=True):
            if isinstance(pixels, CompressError):
                raise pixels
            images = normalize(pixels.to(self.device, non_blocking=True), self.mean, self.std)
            yield erased(images, batch, augment, seed=seed, epoch=epoch) if augment.erase > 0 else images

    @functools.cached_property
    def _fill(self) -> tuple[float, ...]:
        """The mean on the host. To ask a GPU for it waits for all that it does."""
        return tuple(self.mean.tolist())

    def _by_threads(self, view: TrainingPicture, batches: "_Keyed") -> Iterator[Any]:
        if not self._threads:
            self._threads.append(ThreadPoolExecutor(self._workers, thread_name_prefix="decode"))
        source = _Decoded(self.pictures, view)
        for batch in batches:
            with pillow_quiet():
                decoded = list(self._threads[0].map(source.__getitem__, batch))
            yield _collate(decoded)

    def _by_workers(self, view: TrainingPicture, batches: "_Keyed") -> Iterator[Any]:
        loader = DataLoader(
            _Decoded(self.pictures, view),
            batch_sampler=batches,  # type: ignore[arg-type]
            num_workers=self._workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            prefetch_factor=_AHEAD,
            worker_init_fn=_begin_worker,
            # Other ways to start processes import the user's script again, which may have no guard.
            multiprocessing_context=platform.OWN_PROCESS,
            generator=torch.Generator(),  # else each iterator would draw from the generator of the training
        )
        with warnings.catch_warnings():  # Python 3.12 warns of forks beside threads; these children only decode
            warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
            decoded = iter(loader)
        yield from decoded

    @property
    def _workers(self) -> int:
        return max(1, min(_MOST_WORKERS, platform.usable_cpus() // self.processes))


class _Keyed:
    """(row, key of the draws) of each picture of each batch. They are made when the batch is decoded."""

    def __init__(self, rows: Sequence[Tensor], seed: int, epoch: int) -> None:
        self._seed, self._epoch = seed, epoch
        sizes = [len(batch) for batch in rows]
        self._rows = torch.cat(list(rows)).cpu().split(sizes)  # one copy from the device for all batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._rows:
            yield [(row, stream(self._seed, "picture", self._epoch, row)) for row in batch.tolist()]


@dataclass(frozen=True)
class _Decoded(Dataset[Any]):
    """Pictures by (row, key of the draws). A picture that cannot be read comes as its error."""

    pictures: PictureFiles | PixelPictures
    view: TrainingPicture

    def __getitem__(self, index: tuple[int, int]) -> NDArray[np.uint8] | CompressError:
        row, key = index
        try:
            with self.pictures.opened(row) as image:
                return self.view(image, key)
        except CompressError as error:
            return error


def _collate(pictures: list[NDArray[np.uint8] | CompressError]) -> Tensor | CompressError:
    """uint8 [B, H, W, 3], or the error of the first picture that has one."""
    errors = [picture for picture in pictures if isinstance(picture, CompressError)]
    return errors[0] if errors else torch.from_numpy(np.stack(pictures))  # type: ignore[arg-type]


def _begin_worker(_: int) -> None:
    """Ctrl-C is for the main process, which ends its workers."""
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
