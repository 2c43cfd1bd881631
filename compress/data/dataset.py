"""Reads a data set as uint8 arrays.

In: a recipe's data section. Out: a Dataset, ready to be moved to the device as a whole. Images are decoded once, into a
memory-mapped cache that is checked against its source.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from compress.data.decode import Square, read_images
from compress.data.label_noise import noisy_labels
from compress.data.originals import Originals, pixels
from compress.data.preprocessing import Fit, Interpolation, Preprocessing
from compress.data.sources import LAYOUTS, Source, Split, every_nth, locate
from compress.data.statistics import channel_statistics
from compress.recipe import Augment, Data
from compress.system import files
from compress.system.errors import InputError
from compress.system.hashes import sha256_json

logger = logging.getLogger(__name__)

_CACHE_FORMAT = 2
_ARRAYS = ("train_images", "train_labels", "eval_images", "eval_labels")


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, or memory-mapped.

    Attributes:
        train_images: uint8 [N, H, W, 3].
        train_labels: int64 [N].
        eval_images: uint8 [M, H, W, 3].
        eval_labels: int64 [M].
        eval_split: the name of the evaluation split, for people.
        mean: of each channel in 0..1, with which images are normalised: what published weights expect, else
            `own_mean`.
        std: the same for the standard deviation.
        own_mean: of each channel of the train split, in 0..1.
        own_std: of each channel of the train split, in 0..1.
        interpolation: with which images were resized.
        crop_pct: of the evaluation images. They were resized to image_size / crop_pct, and the centre was cropped.
        fit: how images became squares.
        sha256: of all pixels, labels and class names, of the part that is held out, and of the label noise.
        originals: the pictures as they were before they became squares.
    """

    name: str
    class_names: list[str]
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    eval_images: NDArray[np.uint8]
    eval_labels: NDArray[np.int64]
    eval_split: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    own_mean: tuple[float, ...]
    own_std: tuple[float, ...]
    interpolation: Interpolation
    crop_pct: float
    fit: Fit
    sha256: str
    originals: Originals

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.train_images.shape[1]

    @property
    def square(self) -> Square:
        """How an evaluation image became a square."""
        return Square.of(self.image_size, Preprocessing(self.mean, None, self.interpolation, self.crop_pct, self.fit))

    def train_as_evaluated(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images to train on as the evaluation would see them, for calibration: uint8 [len(rows), H, W, 3]."""
        if self.crop_pct == 1:
            return self.train_images[rows]
        pictures = self.originals.training(rows.tolist())
        return np.stack([self.square(Image.fromarray(pixels(picture))) for picture in pictures])

    @property
    def balanced(self) -> bool:
        """Whether all classes have equally many images, in the train split and in the evaluation split."""
        return all(
            len(set(np.bincount(labels, minlength=self.num_classes).tolist())) == 1
            for labels in (self.train_labels, self.eval_labels)
        )


def load_data(settings: Data, preprocessing: Preprocessing | None = None) -> Dataset:
    """Reads the data set that the recipe names, from the cache where the cache is current.

    Args:
        settings: the recipe's. Its fit and crop_pct come before those of the preprocessing.
        preprocessing: how the model that gets the images sees them. Default: bicubic, cropped to a square, normalised
            with the mean and std of the train split (padded images: with those of ImageNet).

    Raises:
        InputError: for one of these reasons:

            - The data set is missing or damaged.
            - It has fewer than two classes.
            - It has no evaluation split, and data.holdout is not set.
            - data.holdout leaves no image to train on.
        MachineError: the cache cannot be written. $COMPRESS_CACHE chooses another folder for it.
    """
    layout = LAYOUTS[settings.name]
    seen = (preprocessing or Preprocessing()).asked(settings.fit, settings.crop_pct)
    square = Square.of(settings.image_size or layout.image_size, seen)
    folder = locate(settings.name, settings.root)
    if settings.name == "digits":
        with tempfile.TemporaryDirectory() as scratch:
            content = _build(layout.read(folder), square, Path(scratch), mmap=False)
    else:
        content = _cached(settings.name, folder, square, layout.read)
    dataset = Dataset(
        name=settings.name,
        mean=seen.mean or content["own_mean"],
        std=seen.std or content["own_std"],
        interpolation=seen.interpolation,
        crop_pct=seen.crop_pct,
        fit=seen.fit,
        originals=Originals(settings.name, folder, settings.holdout),
        **content,
    )
    if not settings.holdout and not len(dataset.eval_labels):
        raise InputError(
            f"{folder} has no val, valid or test folder", "Add one, or set data.holdout to keep back a part of train."
        )
    if dataset.num_classes < 2:
        raise InputError(
            f"{folder} holds one class, {dataset.class_names[0]!r}, and there is nothing to tell apart",
            "Add a folder for another class.",
        )
    return _train_as_asked(dataset, settings.holdout, settings.label_noise)


def resolve_augment(settings: Data) -> Augment:
    """The augmentation, with the data set's own defaults for crop and flip."""
    layout = LAYOUTS[settings.name]
    given = settings.augment
    default_crop = 0 if given.scale < 1 else layout.crop
    return Augment(
        crop=default_crop if given.crop is None else given.crop,
        flip=layout.flip if given.flip is None else given.flip,
        erase=given.erase,
        scale=given.scale,
    )


def _cached(name: str, folder: Path, square: Square, read: Callable[[Path], Source]) -> dict[str, Any]:
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    cache = files.cache_folder() / "data" / f"{name}-{square.key}-{place}"
    fingerprint = _fingerprint(folder)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if (content := _open_cache(cache, fingerprint)) is not None:
                return content
            source = read(folder)
            count = len(source.train.labels) + (len(source.evaluation.labels) if source.evaluation else 0)
            needed = count * square.size**2 * 3
            logger.info(f"decoding {count:,} images of {name} once, {needed / 1e6:,.0f} MB, into {cache}")
            files.remove_leftovers(cache.parent, f"{cache.name}.*.tmp")
            with tempfile.TemporaryDirectory(
                prefix=f"{cache.name}.", suffix=".tmp", dir=cache.parent, ignore_cleanup_errors=True
            ) as scratch:
                try:
                    content = _build(source, square, Path(scratch), mmap=True, fingerprint=fingerprint)
                except OSError as error:
                    raise OSError(error.errno, f"{error.strerror or error}; {needed:,} bytes needed") from error
                shutil.rmtree(cache, ignore_errors=True)
                os.rename(scratch, cache)
            return content
    except OSError as error:
        failure = files.cannot_write(cache, error)
        raise type(failure)(failure.message, "Set $COMPRESS_CACHE to a folder with space.") from error


def _fingerprint(folder: Path) -> str:
    """Hash of each file's path, size and time of change. To read all files would cost what the cache saves."""
    digest = hashlib.sha256(f"{_CACHE_FORMAT}".encode())
    stack = [folder]
    lines: list[str] = []
    while stack:
        try:
            for entry in os.scandir(stack.pop()):
                if entry.is_dir():
                    stack.append(Path(entry.path))
                else:
                    status = entry.stat()
                    lines.append(f"{os.path.relpath(entry.path, folder)}\0{status.st_size}\0{status.st_mtime_ns}")
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    for line in sorted(lines):
        digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _open_cache(cache: Path, fingerprint: str) -> dict[str, Any] | None:
    """The cached content, or None where it is absent or damaged, or its source has changed."""
    try:
        meta = json.loads((cache / "meta.json").read_text(encoding="utf-8"))
        if meta.pop("fingerprint") != fingerprint:
            return None
        hashes = meta.pop("arrays")
        if any(files.sha256_file(cache / f"{name}.npy") != hashes[name] for name in _ARRAYS):
            return None
        return {**_content(meta), **_open_arrays(cache, mmap=True)}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(source: Source, square: Square, folder: Path, *, mmap: bool, fingerprint: str = "") -> dict[str, Any]:
    """Writes the arrays and meta.json into `folder` and returns the content of a Dataset.

    Images to train on have the same fit and are not cropped further, since augmentation crops them.
    """
    empty = Split(np.zeros((0, square.size, square.size, 3), np.uint8), [])
    splits = (("train", source.train, replace(square, crop_pct=1.0)), ("eval", source.evaluation or empty, square))
    for name, split, cut in splits:
        out = folder / f"{name}_images.npy"
        if isinstance(split.images, list):
            read_images(split.images, cut, out)
        else:
            np.save(out, _resize(split.images, cut))
        np.save(folder / f"{name}_labels.npy", np.asarray(split.labels, dtype=np.int64))
    arrays = _open_arrays(folder, mmap=mmap)
    mean, std = channel_statistics(arrays["train_images"])
    hashes = {name: files.sha256_file(folder / f"{name}.npy") for name in _ARRAYS}
    meta = {
        "class_names": source.class_names,
        "eval_split": source.evaluation_name,
        "mean": mean,
        "std": std,
        "sha256": sha256_json([hashes, source.class_names]),
    }
    files.write_json(folder / "meta.json", {**meta, "arrays": hashes, "fingerprint": fingerprint})
    return {**_content(meta), **arrays}


def _content(meta: dict[str, Any]) -> dict[str, Any]:
    mean, std = (tuple(meta.pop(key)) for key in ("mean", "std"))
    return {**meta, "own_mean": mean, "own_std": std}


def _open_arrays(folder: Path, *, mmap: bool) -> dict[str, NDArray[Any]]:
    # Mapped arrays are copy-on-write: torch warns of read-only arrays, and nothing may write into the cache.
    paths = {name: folder / f"{name}.npy" for name in _ARRAYS}
    return {name: files.map_array(path) if mmap else np.load(path, allow_pickle=False) for name, path in paths.items()}


def _resize(images: NDArray[np.uint8], square: Square) -> NDArray[np.uint8]:
    if not len(images):
        return np.zeros((0, square.size, square.size, 3), np.uint8)
    if images.shape[1] == square.size and square.crop_pct == 1:
        return np.ascontiguousarray(images)
    return np.stack([square(Image.fromarray(image)) for image in images])


def _train_as_asked(dataset: Dataset, holdout: float, label_noise: float) -> Dataset:
    """The data set with a part held out (by the true labels) and with noise in the labels to train on."""
    clean = dataset.train_labels
    held = every_nth(clean, 1 / holdout) if holdout else None
    if held is not None and held.all():
        raise InputError(f"data.holdout {holdout} leaves nothing to train on", "Lower it, or add images.")
    if label_noise:
        noisy = noisy_labels(clean, label_noise, dataset.num_classes)
        sha256 = sha256_json([dataset.sha256, "label_noise", label_noise])
        dataset = replace(dataset, train_labels=noisy, sha256=sha256)
    if held is None:
        return dataset
    return replace(
        dataset,
        train_images=dataset.train_images[~held],
        train_labels=dataset.train_labels[~held],
        eval_images=_resize(dataset.train_images[held], dataset.square),
        eval_labels=clean[held],
        eval_split=f"{holdout:g} of train, held out",
        sha256=sha256_json([dataset.sha256, holdout, *([dataset.crop_pct] if dataset.crop_pct < 1 else [])]),
    )
