"""The sheet of augmented samples: what training sees, in the right rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import on_device
from compress.data.dataset import load_data
from compress.data.decode import Square
from compress.data.preprocessing import Preprocessing
from compress.recipe import Augment, Recipe, validate_recipe
from compress.runs.preview import Sample, augmented, write_preview
from compress.system.errors import InputError, UsageError
from compress.system.interrupts import Flag
from compress.training.batch_rows import epoch_order
from compress.training.batches import Batches
from tests.helpers.damage import not_an_image
from tests.helpers.pictures import smooth_picture, write_folder_data

PLAIN = Augment(crop=0, flip=False)


def samples(count: int, side: int = 16) -> list[Sample]:
    squares = [np.asarray(smooth_picture(side, side, seed=seed)) for seed in range(count)]
    return [Sample(str(label), label, square, square, square) for label, square in enumerate(squares)]


def recipe(root: Path, **augment: object) -> Recipe:
    return validate_recipe(
        {
            "data": {"name": "folder", "root": str(root), "image_size": 96, "augment": augment},
            **{role: {"model": "resnet10t"} for role in ("teacher", "student")},
        }
    )


@pytest.mark.parametrize("streamed", [False, True])
def test_without_augmentation_every_epoch_shows_the_picture_itself(streamed: bool) -> None:
    given = samples(7)
    for epoch in augmented(given, PLAIN, Preprocessing(), Square(16), seed=3, streamed=streamed):
        np.testing.assert_array_equal(epoch, np.stack([sample.whole for sample in given]))


@pytest.mark.parametrize("streamed", [False, True])
def test_mirrored_pictures_stay_in_their_rows(streamed: bool) -> None:
    given = samples(7)
    drawn = augmented(given, Augment(crop=0, flip=True), Preprocessing(), Square(16), seed=3, streamed=streamed)
    mirrored = 0
    for epoch in drawn:
        for sample, found in zip(given, epoch, strict=True):
            flipped = np.array_equal(found, sample.whole[:, ::-1])
            assert flipped or np.array_equal(found, sample.whole)
            mirrored += flipped
    assert 0 < mirrored < drawn.shape[0] * len(given)


def test_the_draws_are_those_of_the_batches_of_a_training(tmp_path: Path) -> None:
    write_folder_data(tmp_path, train=1, evaluation=1)
    dataset = load_data(recipe(tmp_path).data)
    augment, seed = Augment(crop=4, flip=True, erase=0.5, scale=0.5), 11
    train = on_device(dataset, torch.device("cpu")).train
    batches = Batches(train, augment, batch_size=3, seed=seed)
    given = [
        Sample("", int(label), image, image, image) for image, label in zip(dataset.train_images, range(3), strict=True)
    ]
    found = augmented(
        given, augment, Preprocessing(dataset.mean, dataset.std), dataset.square, seed=seed, streamed=False
    )
    for epoch, shown in enumerate(found):
        batch = batches.get(epoch, 0, Flag()).images.permute(0, 2, 3, 1) * train.std + train.mean
        order = epoch_order(3, seed=seed, epoch=epoch)
        np.testing.assert_allclose(shown[order.numpy()], (batch * 255).clamp(0, 255).numpy(), atol=0.51)


def test_the_sheet_has_a_class_in_each_row_and_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    colours = {"blue": (0, 0, 255), "green": (0, 255, 0), "red": (255, 0, 0)}
    for split in ("train", "val"):
        for name, colour in colours.items():
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for row in range(4):
                Image.new("RGB", (96, 96), colour).save(folder / f"{row}.png")
    not_an_image(tmp_path / "train" / "green" / "2.png")
    write_preview(recipe(tmp_path, crop=0), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = {colour: count for count, colour in sheet.getcolors(1 << 20) or []}
        heights = [np.argwhere((np.asarray(sheet) == colour).all(axis=2))[:, 0].min() for colour in colours.values()]
    assert all(pixels[colour] == 8 * 96 * 96 for colour in colours.values())
    assert heights == sorted(heights)


def test_no_readable_picture_is_an_input_error(tmp_path: Path) -> None:
    write_folder_data(tmp_path, train=2)
    for path in (tmp_path / "train").glob("*/*"):
        not_an_image(path)
    with pytest.raises(InputError, match="no picture can be read"):
        write_preview(recipe(tmp_path), tmp_path / "sheet.png")


def test_a_name_of_another_kind_of_picture_is_refused(tmp_path: Path) -> None:
    write_folder_data(tmp_path, train=2)
    with pytest.raises(UsageError, match=r"sheet\.jpg: the name must end in \.png"):
        write_preview(recipe(tmp_path), tmp_path / "sheet.jpg")
    assert not (tmp_path / "sheet.jpg").exists()
