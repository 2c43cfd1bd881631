"""Data sets as they are published and folders of one's own: splits, classes, the cache of decoded images."""

import logging
import mmap
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from compress.data import load_data, resolve_augment
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_cifar100, write_folder_data, write_images, write_tiny_imagenet

CINIC10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_cifar100_is_read_as_published(tmp_path: Path) -> None:
    pixels = write_cifar100(tmp_path)
    data = load_data(Data(name="cifar100", root=str(tmp_path)))
    assert data.class_names == list("abcd")
    assert (data.train_images.shape, data.eval_images.shape) == ((40, 32, 32, 3), (12, 32, 32, 3))
    # A published row holds 1,024 red values, then the green and the blue ones, each row by row.
    y, x = 5, 7
    assert data.eval_images[3, y, x].tolist() == [int(pixels["test"][3, c * 1024 + y * 32 + x]) for c in range(3)]
    planes = pixels["train"].reshape(40, 3, 1024) / 255
    np.testing.assert_allclose(data.mean, planes.mean(axis=(0, 2)), atol=1e-4)
    np.testing.assert_allclose(data.std, planes.std(axis=(0, 2)), atol=1e-4)


def test_cifar100_pickles_cannot_run_code(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {sentinel}",)

    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": Evil(), "fine_labels": []}))
    with pytest.raises(InputError, match=r"system"):
        load_data(Data(name="cifar100", root=str(tmp_path)))
    assert not sentinel.exists()


def test_tiny_imagenet_takes_val_labels_from_its_annotations_and_keeps_names_unique(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_imagenet(tmp_path)
    monkeypatch.setattr("compress.data.sources._holds_tiny_imagenet", lambda _: True)  # it has three of the classes
    data = load_data(Data(name="tinyimagenet", root=str(tmp_path)))
    assert data.class_names == ["crane (n01)", "crane (n02)", "goldfish"]
    assert data.eval_labels.tolist() == [2, 0, 1]
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    first = np.asarray(Image.open(tmp_path / "tiny-imagenet-200" / "val" / "images" / "001.png"))
    np.testing.assert_array_equal(data.eval_images[1], first)


def test_cinic10_is_evaluated_on_test_and_never_touches_valid(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 5), ("test", 2)):
        for number, name in enumerate(CINIC10):
            write_images(tmp_path / "CINIC-10" / split / name, count, seed=number, size=32)
    data = load_data(Data(name="cinic10", root=str(tmp_path)))
    assert (len(data.train_labels), len(data.eval_labels), data.eval_split) == (30, 20, "test")


def test_digits_are_scikit_learns_and_split_without_overlap() -> None:
    data = load_data(Data(name="digits", image_size=8))
    everything = load_digits()
    assert len(data.train_labels) + len(data.eval_labels) == len(everything.target)
    original = {image.astype(int).tobytes() for image in everything.images}
    rescaled = np.concatenate([data.train_images, data.eval_images])[..., 0].astype(float) * 16 / 255
    assert {np.round(image).astype(int).tobytes() for image in rescaled} == original
    assert set(np.bincount(data.eval_labels).tolist()) <= set(range(34, 38))


def test_a_folder_of_ones_own_is_resized_and_reports_imbalance(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", 6, seed=1, size=20)
    write_images(tmp_path / "train" / "b", 2, seed=2, size=20)
    write_images(tmp_path / "val" / "b", 2, seed=3, size=20)
    data = load_data(Data(name="folder", root=str(tmp_path), image_size=8))
    assert data.train_images.shape == (8, 8, 8, 3)
    assert data.eval_labels.tolist() == [1, 1]  # b keeps its number though val lacks a
    assert not data.balanced


def test_holdout_evaluates_on_a_part_of_train_and_not_on_the_official_split(tmp_path: Path) -> None:
    write_folder_data(tmp_path, train=20)
    settings = Data(name="folder", root=str(tmp_path), image_size=8, holdout=0.25)
    data, whole = load_data(settings), load_data(Data(name="folder", root=str(tmp_path), image_size=8))
    assert np.bincount(data.eval_labels).tolist() == [5, 5, 5]
    assert np.bincount(data.train_labels).tolist() == [15, 15, 15]
    rows = {image.tobytes() for image in whole.train_images}
    held, kept = ({image.tobytes() for image in images} for images in (data.eval_images, data.train_images))
    assert held | kept == rows
    assert not held & kept
    assert load_data(settings).sha256 == data.sha256 != whole.sha256


def test_without_an_evaluation_split_a_holdout_is_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", 6, seed=1)
    with pytest.raises(InputError, match=r"data\.holdout"):
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: shutil.rmtree(root / "train"), "missing"),
        (lambda root: (root / "train" / "void").mkdir(), "void holds no image"),
        (lambda root: write_images(root / "val" / "stranger", 1, seed=0), "stranger"),
        (lambda root: write_images(root / "train" / "caf\udce9", 1, seed=0), "not plain text"),
    ],
)
def test_a_folder_that_is_not_in_order_is_an_input_error(tmp_path: Path, change: object, words: str) -> None:
    write_folder_data(tmp_path)
    change(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match=words):
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))


def test_the_cache_is_used_and_renewed_when_its_source_or_itself_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_folder_data(tmp_path)
    settings = Data(name="folder", root=str(tmp_path), image_size=8)
    first = load_data(settings)
    again = load_data(settings)
    assert len(caplog.records) == 1
    assert isinstance(again.train_images.base, mmap.mmap)
    np.testing.assert_array_equal(first.train_images, again.train_images)

    write_images(tmp_path / "train" / "dark", 1, seed=77)
    changed = load_data(settings)
    assert len(caplog.records) == 2
    assert changed.sha256 != first.sha256

    cached = next(Path(os.environ["COMPRESS_CACHE"], "data").glob(f"folder-8-*/{'train_images'}.npy"))
    for candidate in Path(os.environ["COMPRESS_CACHE"], "data").glob("folder-8-*/train_images.npy"):
        cached = candidate if np.array_equal(np.load(candidate), changed.train_images) else cached
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    healed = load_data(settings)
    assert len(caplog.records) == 3
    assert healed.sha256 == changed.sha256


def test_what_is_written_into_the_arrays_never_reaches_the_cache(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    settings = Data(name="folder", root=str(tmp_path), image_size=8)
    load_data(settings)
    load_data(settings).train_images[:] = 0
    assert load_data(settings).train_images.any()


def test_augmentation_defaults_follow_the_data_set() -> None:
    assert resolve_augment(Data(name="digits")).flip is False
    assert (resolve_augment(Data(name="cifar100")).crop, resolve_augment(Data(name="tinyimagenet")).crop) == (4, 8)
    assert resolve_augment(Data.model_validate({"name": "cifar100", "augment": {"scale": 0.5}})).crop == 0
