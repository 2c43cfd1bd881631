"""A picture of augmented samples, since people look before they train for a night.

In: a recipe. Out: a sheet with a class in each row: a sample as evaluation sees it, and then as the student's training
sees it in its first epochs. The batches are made as in training (`compress.training.batches`).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from compress.data import Images, StreamedImages, resolve_augment
from compress.data.check import read_source
from compress.data.decode import Square
from compress.data.loader_choice import choose_loader
from compress.data.picture_files import PictureFiles, PixelPictures
from compress.data.preprocessing import Preprocessing
from compress.data.source import Source
from compress.data.sources import LAYOUTS
from compress.data.statistics import channel_statistics
from compress.models.published import find_published
from compress.recipe import Augment, Recipe
from compress.system import files
from compress.system.errors import InputError, UsageError
from compress.system.interrupts import Flag
from compress.system.seeds import stream
from compress.training.batch_rows import epoch_order
from compress.training.batches import Batches

_CLASSES = 16
_DRAWS = 7
_SMALLEST, _LARGEST = 96, 192  # pixels a side of a sample on the sheet
_GAP, _LINE, _FONT = 4, 22, 13
_TRIES = 5  # samples of a class that are tried, where some cannot be read


@dataclass(frozen=True)
class Sample:
    """A class and one of its pictures: a path, or uint8 [H, W, 3].

    The other pixels are uint8 [size, size, 3], whole and as evaluation sees them.
    """

    class_name: str
    label: int
    picture: str | NDArray[np.uint8]
    whole: NDArray[np.uint8]
    evaluated: NDArray[np.uint8]


def write_preview(recipe: Recipe, path: Path) -> None:
    """Writes the sheet.

    Args:
        recipe: as it was loaded.
        path: a PNG.

    Raises:
        InputError: the data is missing, or no picture of it can be read.
        UsageError: timm publishes no weights for the student, or the name does not end in .png.
        MachineError: the file cannot be written, or the Hub cannot be reached.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--preview {path}: the name must end in .png", "For example: --preview samples.png.")
    seen = find_published(recipe.student).preprocessing if recipe.student.published else Preprocessing()
    settings = recipe.data
    seen = seen.asked(settings.fit, settings.crop_pct)
    square = Square.of(settings.image_size or LAYOUTS[settings.name].image_size, seen)
    chosen = _samples(read_source(settings), square)
    augment, seed = resolve_augment(settings), stream(recipe.train.seed, "student")
    streamed = choose_loader(settings, torch.device("cpu")) == "stream"
    sheet = _sheet(chosen, augmented(chosen, augment, seen, square, seed=seed, streamed=streamed), augment)
    try:
        with files.replacing(path) as temporary:
            sheet.save(temporary, "PNG")
    except OSError as error:
        raise files.cannot_write(path, error) from error


def augmented(
    samples: list[Sample], augment: Augment, seen: Preprocessing, square: Square, *, seed: int, streamed: bool
) -> NDArray[np.uint8]:
    """The samples in the first epochs of a training, uint8 [epochs, N, size, size, 3].

    Args:
        augment: resolved (`compress.data.resolve_augment`).
        square: of evaluation.
        seed: of the batches.
        streamed: whether training decodes each picture for each use.
    """
    pixels = np.stack([sample.whole for sample in samples])
    own = channel_statistics(pixels)
    mean, std = (torch.tensor(values) for values in (seen.mean or own[0], seen.std or own[1]))
    labels, whole = torch.tensor([sample.label for sample in samples]), replace(square, crop_pct=1.0)
    images: Images | StreamedImages = Images(torch.from_numpy(pixels), labels, mean, std)
    if streamed:
        images = StreamedImages(_pictures(samples, whole), labels, mean, std)
    batches = Batches(images, augment, batch_size=len(samples), seed=seed)
    drawn = []
    for epoch in range(_DRAWS):
        placed = torch.empty(len(samples), 3, *pixels.shape[1:3])
        placed[epoch_order(len(samples), seed=seed, epoch=epoch)] = batches.get(epoch, 0, Flag()).images
        drawn.append(_pixels(placed, mean, std))
    return np.stack(drawn)


def _pictures(samples: list[Sample], square: Square) -> PictureFiles | PixelPictures:
    paths = [sample.picture for sample in samples if isinstance(sample.picture, str)]
    if paths:
        return PictureFiles.of([os.path.abspath(path) for path in paths], Path(os.sep), square)
    return PixelPictures(np.stack([np.asarray(sample.picture) for sample in samples]), square)


def _pixels(batch: Tensor, mean: Tensor, std: Tensor) -> NDArray[np.uint8]:
    """A normalised batch as people see it."""
    values = (batch.permute(0, 2, 3, 1) * std + mean) * 255
    return values.round().clamp(0, 255).to(torch.uint8).numpy()


def _samples(source: Source, square: Square) -> list[Sample]:
    """One of each class, of at most 16 classes that are spread over all."""
    names, labels = source.class_names, np.asarray(source.train.labels)
    shown = np.unique(np.linspace(0, len(names) - 1, min(_CLASSES, len(names))).round().astype(int)).tolist()
    found = []
    for label in shown:
        rows = np.flatnonzero(labels == label)
        for row in rows[len(rows) // 2 :][:_TRIES].tolist():
            image = source.train.images[row]
            try:
                whole, evaluated = (_read(image, replace(square, crop_pct=part)) for part in (1.0, square.crop_pct))
            except InputError:
                continue
            found.append(Sample(names[label], label, image, whole, evaluated))
            break
    if not found:
        raise InputError("no picture can be read", "`compress data check RECIPE` lists them.")
    return found


def _read(image: str | NDArray[np.uint8], square: Square) -> NDArray[np.uint8]:
    return square.read(image) if isinstance(image, str) else square(Image.fromarray(image))


def _sheet(samples: list[Sample], drawn: NDArray[np.uint8], augment: Augment) -> Image.Image:
    side = min(max(drawn.shape[2], _SMALLEST), _LARGEST)
    step = side + _GAP
    width, height = (1 + _DRAWS) * step + _GAP, _LINE * 2 + len(samples) * (step + _LINE)
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    settings = ", ".join(f"{name}: {value}" for name, value in augment.model_dump(exclude_defaults=True).items())
    draw.text((_GAP, _GAP), f"augment: {settings or 'none'}", "black", font)
    for column in range(1 + _DRAWS):
        title = f"epoch {column}" if column else "evaluation"
        draw.text((_GAP + column * step, _LINE + _GAP), title, "black", font)
    for row, sample in enumerate(samples):
        top = 2 * _LINE + row * (step + _LINE)
        draw.text((_GAP, top + _GAP), sample.class_name, "black", font)
        for column, pixels in enumerate([sample.evaluated, *drawn[:, row]]):
            kind = Image.Resampling.NEAREST if len(pixels) < side else Image.Resampling.LANCZOS
            tile = Image.fromarray(pixels).resize((side, side), kind)
            sheet.paste(tile, (_GAP + column * step, top + _LINE))
    return sheet
