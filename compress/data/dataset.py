"""Reads a data set as uint8 arrays.

In: a recipe's data section. Out: a Dataset, ready to be moved to the device as a whole, or with the pictures to train
on in their files.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from compress.data.cache import Wanted, cached, uncached
from compress.data.decode import Square
from compress.data.label_noise import noisy_labels
from compress.data.originals import Originals, pixels
from compress.data.picture_files import PictureFiles
from compress.data.preprocessing import Fit, Interpolation, Preprocessing
from compress.data.source import Source, Split
from compress.data.sources import LAYOUTS, data_folder, every_nth
from compress.data.split_checks import held_out_whole, not_judged
from compress.recipe import Data
from compress.system.errors import InputError
from compress.system.hashes import sha256_json


@dataclass(frozen=True)
class Dataset:
    """A data set in memory, or memory-mapped.

    Attributes:
        train_images: uint8 [N, H, W, 3]. Where they are streamed from files, PictureFiles decode them on demand.
        train_labels: int64 [N], -1 for pictures without a label.
        eval_images: uint8 [M, H, W, 3].
        eval_labels: int64 [M].
        eval_split: the name of the evaluation split, for people.
        mean: of each channel in 0..1, with which images are normalised: what published weights expect, else
            `own_mean`.
        std: the same for the standard deviation.
        streamed: whether training decodes and crops each picture anew for each use.
        own_mean: of each channel of the train split, in 0..1.
        own_std: of each channel of the train split, in 0..1.
        interpolation: with which images were resized.
        crop_pct: of the evaluation images. They were resized to image_size / crop_pct, and the centre was cropped.
        fit: how images became squares.
        sha256: of all pictures, labels and class names, of the part that is held out, and of the label noise. Of
            pictures in files it covers the bytes, the size in pixels and the fit, and not what a version of Pillow
            decodes. Of those to train on that stay in their files it covers each path below the folder, the file's
            size, and its bytes (up to 64 KiB all, else 16 KiB at start, middle and end).
        warnings: what people should know of the data, a sentence each.
        originals: the pictures as they were before they became squares.
        unlabeled: pictures to train on without a label, which come last (`compress.data.unlabeled`). Other attributes
            than train_images and train_labels do not count them.
        unlabeled_sha256: of those pictures.
        left_out: why pictures could not be read that are left out, by their path.
    """

    name: str
    class_names: list[str]
    train_images: NDArray[np.uint8] | PictureFiles
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
    streamed: bool = False
    warnings: tuple[str, ...] = ()
    unlabeled: int = 0
    unlabeled_sha256: str | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def labeled(self) -> int:
        """Pictures to train on that have a label."""
        return len(self.train_labels) - self.unlabeled

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
        if isinstance(self.train_images, PictureFiles):
            return replace(self.train_images, square=self.square)[rows]
        if self.crop_pct == 1:
            return self.train_images[rows]
        pictures = self.originals.training(rows.tolist())
        return np.stack([self.square(Image.fromarray(pixels(picture))) for picture in pictures])

    @property
    def balanced(self) -> bool:
        """Whether all classes have equally many images, in the train split and in the evaluation split."""
        return all(
            len(set(np.bincount(labels, minlength=self.num_classes).tolist())) == 1
            for labels in (self.train_labels[: self.labeled], self.eval_labels)
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
            - Pictures cannot be read, and are not to be left out, or are too many for that.
            - It has fewer than two classes.
            - It has no evaluation split, and data.holdout is not set.
            - data.holdout leaves no image to train on.
        MachineError: memory, open files, disk or network fail; or the cache cannot be written. $COMPRESS_CACHE chooses
            another folder for it.
    """
    layout = LAYOUTS[settings.name]
    seen = (preprocessing or Preprocessing()).asked(settings.fit, settings.crop_pct)
    square = Square.of(settings.image_size or layout.image_size, seen)
    from_files = settings.loader == "stream" and layout.in_files
    holdout = settings.holdout if layout.in_files else 0.0  # of files, so that evaluation sees whole pictures
    wanted = Wanted(
        name=settings.name,
        folder=data_folder(settings),
        square=square,
        streamed=from_files,
        variant=f"-{holdout:g}" if holdout else "",
        read=lambda folder: _part_held_out(layout.read(folder, settings), holdout),
        packed=layout.packed,
        chosen=layout.chosen(settings),
        skip=settings.on_bad_image == "skip",
    )
    content = uncached(wanted) if settings.name == "digits" else cached(wanted)
    dataset = Dataset(
        name=settings.name,
        mean=seen.mean or content["own_mean"],
        std=seen.std or content["own_std"],
        interpolation=seen.interpolation,
        crop_pct=seen.crop_pct,
        fit=seen.fit,
        streamed=settings.loader == "stream",
        originals=Originals(settings, wanted.folder, frozenset(content["left_out"])),
        **content,
    )
    if dataset.streamed and not from_files:  # training sees other pixels than those that are resident
        dataset = replace(dataset, sha256=sha256_json([dataset.sha256, "streamed"]))
    if not settings.holdout and not len(dataset.eval_labels):
        raise InputError(
            f"{wanted.folder} has no val, valid or test folder",
            "Add one, or set data.holdout to keep back a part of train.",
        )
    if dataset.num_classes < 2:
        raise InputError(
            f"{wanted.folder} holds one class, {dataset.class_names[0]!r}, and there is nothing to tell apart",
            "Add a folder for another class.",
        )
    dataset = _train_as_asked(dataset, 0.0 if layout.in_files else settings.holdout, settings.label_noise)
    return replace(dataset, warnings=(*dataset.warnings, *not_judged(dataset.eval_labels, dataset.class_names)))


def _train_as_asked(dataset: Dataset, holdout: float, label_noise: float) -> Dataset:
    """The data set with a part held out (by the true labels) and with noise in the labels to train on."""
    clean = dataset.train_labels
    held = _held_out(clean, holdout) if holdout else None
    if label_noise:
        noisy = noisy_labels(clean, label_noise, dataset.num_classes)
        sha256 = sha256_json([dataset.sha256, "label_noise", label_noise])
        dataset = replace(dataset, train_labels=noisy, sha256=sha256)
    if held is None:
        return dataset
    assert not isinstance(dataset.train_images, PictureFiles)
    shown, cut = dataset.train_images[held], dataset.square
    if dataset.crop_pct < 1:  # resized once, as in what is exported
        pictures = dataset.originals.evaluation(range(len(shown)))
        shown = np.stack([cut(Image.fromarray(pixels(picture))) for picture in pictures])
    return replace(
        dataset,
        train_images=dataset.train_images[~held],
        train_labels=dataset.train_labels[~held],
        eval_images=shown,
        eval_labels=clean[held],
        eval_split=_held_out_name(holdout),
        warnings=(*dataset.warnings, *held_out_whole(clean, held, dataset.class_names)),
        sha256=sha256_json([dataset.sha256, holdout, *([dataset.crop_pct, "once"] if dataset.crop_pct < 1 else [])]),
    )


def _part_held_out(source: Source, holdout: float) -> Source:
    """The source with that part of its files to train on as evaluation split."""
    images = source.train.images
    if not holdout or not isinstance(images, list):
        return source
    labels = np.asarray(source.train.labels)
    held = _held_out(labels, holdout)

    def part(chosen: NDArray[np.bool_]) -> Split:
        rows = np.flatnonzero(chosen).tolist()
        return Split([images[row] for row in rows], labels[rows].tolist())

    return replace(
        source,
        train=part(~held),
        evaluation=part(held),
        evaluation_name=_held_out_name(holdout),
        warnings=(*source.warnings, *held_out_whole(labels, held, source.class_names)),
    )


def _held_out(labels: NDArray[np.int64], holdout: float) -> NDArray[np.bool_]:
    held = every_nth(labels, 1 / holdout)
    if held.all():
        raise InputError(f"data.holdout {holdout} leaves nothing to train on", "Lower it, or add images.")
    return held


def _held_out_name(holdout: float) -> str:
    return f"{holdout:g} of train, held out"
