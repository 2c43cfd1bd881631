"""Pictures that are decoded from their files for every use: crops, draws, errors, and the loaders that agree."""

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms.functional import hflip

from compress.data import StreamedImages, load_data, on_device
from compress.data.decode import Square
from compress.data.picture_files import PictureFiles, PixelPictures
from compress.data.preprocessing import Fit
from compress.data.training_picture import TrainingPicture, crop_box
from compress.recipe import Augment, Data
from compress.system.errors import InputError, MachineError
from tests.helpers.pictures import smooth_picture, write_folder_data

CROPS = Augment(crop=0, flip=True, scale=0.3)
CPU = torch.device("cpu")
SIZES = [(320, 240), (240, 320), (160, 160), (1000, 48), (48, 1000), (7, 5), (1, 1), (1, 300)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def streamed(tmp_path: Path) -> StreamedImages:
    paths = []
    for number in range(12):
        paths.append(str(tmp_path / f"{number}.png"))
        smooth_picture(60 + 5 * number, 50, seed=number).save(paths[-1])
    pictures = PictureFiles.of(paths, tmp_path, Square(32))
    return StreamedImages(pictures, torch.arange(12), torch.full((3,), 0.4), torch.full((3,), 0.2))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("smallest", [0.08, 0.9])
def test_crops_are_those_of_timm_for_the_same_draws(size: tuple[int, int], smallest: float) -> None:
    picture = Image.new("RGB", size)
    for key in range(40):
        random.seed(key)
        top, left, height, width = RandomResizedCropAndInterpolation.get_params(picture, (smallest, 1), (3 / 4, 4 / 3))
        if width and height:  # of a picture of one pixel a side timm takes none
            assert crop_box(*size, smallest, random.Random(key)) == (left, top, width, height)


def test_a_cropped_and_mirrored_picture_has_the_pixels_of_timm() -> None:
    picture, view = smooth_picture(300, 200), TrainingPicture(Square(64, "bicubic"), CROPS)
    crop = RandomResizedCropAndInterpolation(64, scale=(0.3, 1.0), interpolation="bicubic")
    mirrored = 0
    for key in range(20):
        random.seed(key)
        expected = crop(picture)
        if random.random() < 0.5:
            expected, mirrored = hflip(expected), mirrored + 1
        np.testing.assert_array_equal(view(picture, key), np.asarray(expected))
    assert 0 < mirrored < 20


def test_a_large_jpeg_is_decoded_smaller_and_looks_alike(tmp_path: Path) -> None:
    smooth_picture(2400, 1600).save(tmp_path / "a.jpg", quality=95)
    view = TrainingPicture(Square(64), Augment(crop=0, flip=False, scale=0.5))
    for key in range(5):
        with Image.open(tmp_path / "a.jpg") as reduced, Image.open(tmp_path / "a.jpg") as whole:
            found = view(reduced, key).astype(float)
            assert reduced.width < 2400
            whole.load()  # too late to decode it smaller
            assert np.abs(found - view(whole, key)).mean() < 1


def test_a_picture_that_lies_on_its_side_is_cropped_as_people_see_it(tmp_path: Path) -> None:
    upright = smooth_picture(300, 120)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    view = TrainingPicture(Square(48), CROPS)
    for key in range(5):
        with Image.open(tmp_path / "turned.png") as turned:
            np.testing.assert_array_equal(view(turned, key), view(upright, key))


@pytest.mark.parametrize("fit", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(400, 100), (100, 400), (300, 200), (64, 64)])
def test_crops_are_of_the_square_that_the_picture_becomes(fit: Fit, size: tuple[int, int]) -> None:
    """Red tells the column, green the row, and blue that it is no border: so a crop says what it shows."""
    ramps = np.full((size[1], size[0], 3), 255, np.uint8)
    ramps[..., 0] = np.linspace(0, 250, size[0])
    ramps[..., 1] = np.linspace(0, 250, size[1])[:, None]
    view = TrainingPicture(Square(64, "bilinear", 1.0, fit, (0, 0, 0)), Augment(crop=0, flip=False, scale=0.3))
    side, borders, areas = max(size), 0, []
    for key in range(100):
        found = view(Image.fromarray(ramps), key).astype(float)
        inside = found[..., 2] > 128
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        seen = found[rows[2] : rows[-1] - 1, columns[2] : columns[-1] - 1]  # without the edges, where colours mix
        steps = np.diff(seen[..., 0].mean(0)).mean(), np.diff(seen[..., 1].mean(1)).mean()
        across, down = (64 * step / 250 * own for step, own in zip(steps, size, strict=True))  # in pixels
        if fit == "stretch":
            assert inside.all()
            across, down = across / size[0] * side, down / size[1] * side
        elif not inside.all():
            borders += 1
            whole = columns if across > size[0] else rows  # the border is where the crop is longer than the picture
            assert len(whole) == pytest.approx(64 * min(size) / (across if across > size[0] else down), abs=2)
        areas.append(across * down / side**2)
        assert 0.7 < across / down < 1.43
    assert 0.25 < min(areas) < 0.45
    assert 0.8 < max(areas) < 1.1
    assert (borders > 0) == (fit == "pad" and size[0] != size[1])


def test_without_resized_crops_the_square_is_shifted_over_black() -> None:
    picture, square = smooth_picture(90, 60), Square(32)
    view = TrainingPicture(square, Augment(crop=4, flip=False))
    padded = np.pad(square(picture), ((4, 4), (4, 4), (0, 0)))
    windows = [padded[y : y + 32, x : x + 32] for y in range(9) for x in range(9)]
    found = {next(n for n, w in enumerate(windows) if np.array_equal(w, view(picture, key))) for key in range(60)}
    assert len(found) > 30


def batches(images: StreamedImages, rows: list[int], size: int, *, seed: int = 3, epoch: int = 1) -> torch.Tensor:
    return torch.cat(list(images.batches(torch.tensor(rows).split(size), CROPS, seed=seed, epoch=epoch)))


def test_draws_depend_on_seed_epoch_and_picture_alone(streamed: StreamedImages) -> None:
    rows = list(range(12))
    whole = batches(streamed, rows, 12)
    assert torch.equal(batches(streamed, rows, 4), whole)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert torch.equal(batches(streamed, order.tolist(), 6), whole[order])
    assert not torch.equal(batches(streamed, rows, 12, seed=4), whole)
    assert not torch.equal(batches(streamed, rows, 12, epoch=2), whole)
    with Image.open(streamed.pictures.path(5)) as image:  # type: ignore[union-attr]
        box = image.size
    assert box == (85, 50)


def test_processes_that_decode_ahead_give_the_same_bits_and_leave_the_generators_alone(
    streamed: StreamedImages,
) -> None:
    expected = batches(streamed, list(range(12)), 5)
    before = torch.get_rng_state(), random.getstate()
    assert torch.equal(batches(replace(streamed, ahead=True), list(range(12)), 5), expected)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


@pytest.mark.parametrize("ahead", [False, True])
def test_a_picture_that_cannot_be_read_is_named(streamed: StreamedImages, ahead: bool) -> None:
    path = Path(streamed.pictures.path(7))  # type: ignore[union-attr]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"7\.png cannot be read"):
        batches(replace(streamed, ahead=ahead), list(range(12)), 4)


def test_normalised_pixels_are_those_of_the_picture(streamed: StreamedImages) -> None:
    with Image.open(streamed.pictures.path(2)) as image:  # type: ignore[union-attr]
        expected = (Square(32)(image) / 255 - 0.4) / 0.2
    np.testing.assert_allclose(streamed.normalized(slice(2, 3))[0].permute(1, 2, 0), expected, atol=1e-5)


def test_any_file_name_comes_back(tmp_path: Path) -> None:
    names = ["a.png", "b/ü.png", "c\udcff.png", "d e\n.png", "/elsewhere/f.png"]
    paths = [name if name.startswith("/") else f"{tmp_path}/{name}" for name in names]
    pictures = PictureFiles.of(paths, tmp_path, Square(8))
    assert [pictures.path(row) for row in range(5)] == paths


def test_the_stream_reads_the_same_data_as_the_resident_loader(tmp_path: Path) -> None:
    write_folder_data(tmp_path / "data")
    settings = Data(name="folder", root=str(tmp_path / "data"), image_size=6, crop_pct=0.8, loader="resident")
    resident, streamed = (load_data(settings.model_copy(update={"loader": name})) for name in ("resident", "stream"))
    np.testing.assert_array_equal(streamed.eval_images, resident.eval_images)
    np.testing.assert_array_equal(streamed.train_images[:], resident.train_images)
    assert streamed.train_images.shape == resident.train_images.shape
    assert streamed.own_mean == resident.own_mean
    for field in ("train_labels", "eval_labels", "class_names"):
        assert list(getattr(streamed, field)) == list(getattr(resident, field))
    again = load_data(settings.model_copy(update={"loader": "stream"}))
    assert again.sha256 == streamed.sha256 != resident.sha256
    next((tmp_path / "data" / "train").rglob("*.png")).write_bytes(b"other")
    with pytest.raises(InputError, match="cannot be read"):
        load_data(settings.model_copy(update={"loader": "stream"}))


def swapped_between_classes(root: Path) -> None:
    paths = [root / "train" / name / "large.bmp" for name in ("dark", "light")]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)


def replaced_by_one_of_its_size(root: Path) -> None:
    path = root / "train" / "dark" / "small.bmp"
    Image.new("RGB", (8, 8), (9, 8, 7)).save(path)


def changed_at_the_end(root: Path) -> None:
    path = root / "train" / "dark" / "large.bmp"
    path.write_bytes(path.read_bytes()[:-3] + b"abc")


def changed_in_the_middle(root: Path) -> None:
    path = root / "train" / "dark" / "large.bmp"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"abc" + content[len(content) // 2 + 3 :])


@pytest.mark.parametrize(
    "change", [swapped_between_classes, replaced_by_one_of_its_size, changed_at_the_end, changed_in_the_middle]
)
def test_the_hash_of_streamed_data_is_of_what_its_files_hold(tmp_path: Path, change: Callable[[Path], None]) -> None:
    root = write_folder_data(tmp_path / "data", train=3, evaluation=2)
    for seed, name in enumerate(("dark", "light")):
        smooth_picture(240, 180, seed=seed).save(root / "train" / name / "large.bmp")
        smooth_picture(8, 8, seed=seed).save(root / "train" / name / "small.bmp")
    copy = shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    sizes = {path: path.stat().st_size for path in root.rglob("*.*")}

    def sha256(folder: Path) -> str:
        return load_data(Data(name="folder", root=str(folder), image_size=8, loader="stream")).sha256

    before = sha256(root)
    assert sha256(copy) == before
    change(root)
    assert {path: path.stat().st_size for path in root.rglob("*.*")} == sizes
    assert sha256(root) != before
    change(copy)
    assert sha256(copy) == sha256(root)


@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_both_loaders_hold_out_the_same_pictures(tmp_path: Path, loader: str) -> None:
    write_folder_data(tmp_path / "data")
    whole = load_data(Data(name="folder", root=str(tmp_path / "data"), image_size=16, loader="resident"))
    settings = Data.model_validate(
        {"name": "folder", "root": str(tmp_path / "data"), "image_size": 16, "holdout": 0.5, "loader": loader}
    )
    found = load_data(settings)
    assert len(found.train_labels) + len(found.eval_labels) == len(whole.train_labels)
    everything = {image.tobytes() for image in whole.train_images}
    parts = [{image.tobytes() for image in part} for part in (found.train_images[:], found.eval_images)]
    assert parts[0] | parts[1] == everything
    assert not parts[0] & parts[1]


def test_a_link_to_nowhere_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    root = write_folder_data(tmp_path / "data", train=40)
    (root / "train" / "dark" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"gone\.png is missing"):
        load_data(Data(name="folder", root=str(root), image_size=8, loader="stream"))
    left = load_data(
        Data.model_validate(
            {"name": "folder", "root": str(root), "image_size": 8, "loader": "stream", "on_bad_image": "skip"}
        )
    )
    assert [Path(path).name for path in left.left_out] == ["gone.png"]
    assert len(left.train_labels) == len(left.train_images) == 120


def test_pixels_in_memory_can_be_streamed_too() -> None:
    dataset = load_data(Data(name="digits", image_size=8, loader="stream"))
    train = on_device(dataset, CPU).train
    assert isinstance(train, StreamedImages)
    assert isinstance(train.pictures, PixelPictures)
    assert dataset.sha256 != load_data(Data(name="digits", image_size=8, loader="resident")).sha256
    (batch,) = train.batches([torch.arange(4)], Augment(crop=0, flip=False), seed=0, epoch=0)
    torch.testing.assert_close(batch, train.normalized(slice(0, 4)))


def test_pictures_that_a_device_cannot_hold_are_to_be_streamed(
    folder_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_data(Data(name="folder", root=str(folder_data), image_size=8))

    def full(*args: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", full)
        with pytest.raises(MachineError, match="pictures of 8 pixels take") as caught:
            on_device(dataset, CPU)
    assert "data.loader: stream" in str(caught.value)
