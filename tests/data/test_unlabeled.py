"""Pictures without labels beside those of a data set: what is read, what is left out, and what does not count them."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from compress.data import Dataset, load_data, on_device
from compress.data import unlabeled as module
from compress.data.unlabeled import with_unlabeled
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data, write_images

LOADERS = pytest.mark.parametrize("loader", ["resident", "stream"])


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return write_folder_data(tmp_path / "data")


def smooth(path: Path, seed: int, size: int = 64) -> Image.Image:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    image.save(path)
    return image


def loaded(root: Path, size: int = 8, **options: object) -> Dataset:
    return load_data(Data.model_validate({"name": "folder", "root": str(root), "image_size": size, **options}))


@LOADERS
def test_they_come_last_without_a_label_and_statistics_are_of_the_others(
    root: Path, tmp_path: Path, loader: str
) -> None:
    write_images(tmp_path / "more" / "a" / "b", 5, seed=50, shade=150)
    write_images(tmp_path / "more", 6, seed=51, shade=170)
    (tmp_path / "more" / "notes.txt").write_text("no picture")
    plain = loaded(root, loader=loader)
    data = with_unlabeled(plain, str(tmp_path / "more"))
    assert (data.labeled, data.unlabeled) == (72, 11)
    assert np.array_equal(data.train_images[:72], plain.train_images[:])
    assert (data.train_labels[72:] == -1).all()
    files = sorted((tmp_path / "more").rglob("*.png"), key=str)
    assert np.array_equal(data.train_images[72:], np.stack([np.asarray(Image.open(file)) for file in files]))
    same = ("mean", "std", "own_mean", "own_std", "sha256", "num_classes", "balanced")
    assert [getattr(data, name) for name in same] == [getattr(plain, name) for name in same]
    images = on_device(data, torch.device("cpu")).train
    assert (images.labeled, images.unlabeled, len(images.labels)) == (72, 11, 83)


@LOADERS
def test_folders_may_be_named_from_where_one_is(
    root: Path, tmp_path: Path, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "more", 6, seed=51, shade=170)
    expected = with_unlabeled(loaded(root, loader=loader), str(tmp_path / "more"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "another cache"))
    data = with_unlabeled(loaded(Path("data"), loader=loader), "more")
    assert data.unlabeled == 6
    assert np.array_equal(data.train_images[:], expected.train_images[:])


@LOADERS
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_copies_of_pictures_to_evaluate_on_are_left_out_and_counted(
    root: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    crop_pct: float,
    loader: str,
) -> None:
    seen = {"crop_pct": crop_pct, "loader": loader}
    originals = [smooth(root / "val" / "dark" / f"photo{seed}.png", seed) for seed in range(6)]
    for number, image in enumerate(originals[:4]):
        (tmp_path / "more").mkdir(exist_ok=True)
        image.resize((48, 48), Image.Resampling.BILINEAR).save(tmp_path / "more" / f"{number}.jpg", quality=60)
    wide = smooth(root / "val" / "dark" / "wide.png", 40).crop((0, 0, 64, 41))
    wide.save(root / "val" / "dark" / "wide.png")
    shutil.copy(root / "val" / "dark" / "wide.png", tmp_path / "more")
    trained = smooth(root / "train" / "dark" / "photo.png", 90)
    trained.save(tmp_path / "more" / "of-train.png")
    for seed in range(20, 27):
        smooth(tmp_path / "more" / "deep" / f"{seed}.png", seed)
    with caplog.at_level(logging.INFO):
        data = with_unlabeled(loaded(root, 32, **seen), str(tmp_path / "more"))
    assert data.unlabeled == 8
    assert "8 pictures" in caplog.text
    assert "5 more are left out" in caplog.text
    others = with_unlabeled(loaded(root, 32, **seen), str(tmp_path / "more" / "deep"))
    assert others.unlabeled_sha256 != data.unlabeled_sha256 is not None
    monkeypatch.setattr(module, "perceptual_hashes", None)  # what is known is not hashed again
    again = with_unlabeled(loaded(root, 32, **seen), str(tmp_path / "more"))
    assert again.unlabeled_sha256 == data.unlabeled_sha256


@LOADERS
def test_a_part_that_is_held_out_is_evaluated_on_so_its_copies_are_left_out(
    root: Path, tmp_path: Path, loader: str
) -> None:
    for seed in range(10):
        smooth(root / "train" / "dark" / f"photo{seed}.png", seed, size=32)
        smooth(tmp_path / "more" / f"{seed}.png", seed, size=32)
    held = loaded(root, 32, holdout=0.3, loader=loader)
    data = with_unlabeled(held, str(tmp_path / "more"))
    evaluated = {image.tobytes() for image in held.eval_images}
    expected = sum(np.asarray(Image.open(path)).tobytes() not in evaluated for path in (tmp_path / "more").iterdir())
    assert data.unlabeled == expected
    assert 0 < expected < 10


def test_what_gives_nothing_to_learn_from_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("missing", "empty"):
        with pytest.raises(InputError, match=place):
            with_unlabeled(loaded(root), str(tmp_path / place))
    image = smooth(root / "val" / "dark" / "photo.png", 3)
    (tmp_path / "copies").mkdir()
    image.save(tmp_path / "copies" / "one.png")
    with pytest.raises(InputError, match=r"all 1 pictures .* are copies"):
        with_unlabeled(loaded(root, 32), str(tmp_path / "copies"))
    (tmp_path / "copies" / "two.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"two\.png"):
        with_unlabeled(loaded(root, 32), str(tmp_path / "copies"))


@LOADERS
def test_what_is_no_picture_is_counted_and_named_beside_the_warnings_of_the_data(
    root: Path, tmp_path: Path, loader: str
) -> None:
    write_images(tmp_path / "more", 3, seed=51, shade=170)
    for name in ("a.heic", "b/c.HEIC", "notes.txt"):
        (tmp_path / "more" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "more" / name).write_bytes(b"?")
    plain = loaded(root, loader=loader)
    for _ in range(2):  # from the cache, too
        data = with_unlabeled(plain, str(tmp_path / "more"))
        assert data.warnings[: len(plain.warnings)] == plain.warnings
        (warning,) = data.warnings[len(plain.warnings) :]
        assert warning.startswith("data.unlabeled: left out: ")
        assert "2 (pictures of a kind that Pillow does not open, such as " in warning
        assert "a.heic" in warning
        assert "1 (files that are no pictures" in warning
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "a.heic").write_bytes(b"?")
    with pytest.raises(InputError, match=r"no picture in .*phone; left out: 1 \(pictures of a kind"):
        with_unlabeled(plain, str(tmp_path / "phone"))


@LOADERS
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_pictures_that_cannot_be_read_are_left_out_where_that_is_asked_for_and_they_are_few(
    root: Path, tmp_path: Path, loader: str, crop_pct: float
) -> None:
    write_images(tmp_path / "more", 198, seed=51, shade=170)
    bad = [tmp_path / "more" / f"bad{number}.png" for number in range(3)]
    for path in bad[:2]:
        path.write_bytes(b"no picture")
    plain = loaded(root, loader=loader, crop_pct=crop_pct)
    with pytest.raises(InputError, match=r"bad0\.png"):
        with_unlabeled(plain, str(tmp_path / "more"))
    for _ in range(2):
        data = with_unlabeled(plain, str(tmp_path / "more"), skip=True)
        assert data.unlabeled == 198
        files = sorted(set((tmp_path / "more").glob("*.png")) - set(bad))
        assert np.array_equal(data.train_images[72:], np.stack([np.asarray(Image.open(file)) for file in files]))
        assert sorted(data.left_out) == [str(path) for path in bad[:2]]
    bad[2].write_bytes(b"no picture")  # 3 of 201
    with pytest.raises(InputError, match=r"3 of 201 images cannot be read.*more than one in a hundred"):
        with_unlabeled(plain, str(tmp_path / "more"), skip=True)
    for number in range(20):
        (tmp_path / "more" / f"worse{number}.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as found:
        with_unlabeled(plain, str(tmp_path / "more"), skip=True)
    assert "data check" not in str(found.value)  # it does not look there
