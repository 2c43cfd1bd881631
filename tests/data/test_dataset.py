import hashlib
import io
import json
import logging
import mmap
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare
from sklearn.datasets import load_digits

from compress.data.dataset import load_data, noisy_labels, resolve_augment
from compress.data.decode import read_image
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.pictures import write_folder_data, write_images


def cifar100(root: Path, train: int = 40, test: int = 12) -> dict[str, np.ndarray]:
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    pixels = {}
    for name, count in (("train", train), ("test", test)):
        pixels[name] = generator.integers(0, 256, (count, 3072), dtype=np.uint8)
        labels = [number % 4 for number in range(count)]
        (folder / name).write_bytes(pickle.dumps({"data": pixels[name], "fine_labels": labels}, protocol=2))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": list("abcd")}, protocol=2))
    return pixels


def tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    for number, wnid in enumerate(("n02", "n01", "n03")):
        write_images(folder / "train" / wnid / "images", 4, seed=number, size=64)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
    write_images(folder / "val" / "images", 3, seed=9, size=64)
    rows = ["000.png\tn03\t0\t0\t1\t1", "001.png\tn01\t0\t0\t1\t1", "002.png\tn02\t0\t0\t1\t1"]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (folder / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane, machine\nn03\tgoldfish, Carassius\n")


def test_cifar100_is_read_as_published(tmp_path: Path) -> None:
    pixels = cifar100(tmp_path)
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
    cifar100(tmp_path)
    sentinel = tmp_path / "sentinel"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {sentinel}",)

    (tmp_path / "cifar-100-python" / "train").write_bytes(pickle.dumps({"data": Evil(), "fine_labels": []}))
    with pytest.raises(InputError, match=r"system"):
        load_data(Data(name="cifar100", root=str(tmp_path)))
    assert not sentinel.exists()


def test_tiny_imagenet_takes_val_labels_from_its_annotations_and_keeps_names_unique(tmp_path: Path) -> None:
    tiny_imagenet(tmp_path)
    data = load_data(Data(name="tinyimagenet", root=str(tmp_path)))
    assert data.class_names == ["crane (n01)", "crane (n02)", "goldfish"]
    assert data.eval_labels.tolist() == [2, 0, 1]
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    first = np.asarray(Image.open(tmp_path / "tiny-imagenet-200" / "val" / "images" / "001.png"))
    np.testing.assert_array_equal(data.eval_images[1], first)


def test_cinic10_is_evaluated_on_test_and_never_touches_valid(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("valid", 5), ("test", 2)):
        for number, name in enumerate(("bird", "cat")):
            write_images(tmp_path / "CINIC-10" / split / name, count, seed=number, size=32)
    data = load_data(Data(name="cinic10", root=str(tmp_path)))
    assert (len(data.train_labels), len(data.eval_labels), data.eval_split) == (6, 4, "test")


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


def test_label_noise_is_what_a_loop_over_the_samples_makes_of_them() -> None:
    labels = np.arange(5000) % 7
    draws = np.random.Generator(np.random.PCG64(0)).integers(2**64, size=10_000, dtype=np.uint64).tolist()
    expected = []
    for index, label in enumerate(labels.tolist()):
        others = [(label + 1 + step) % 7 for step in range(6)]
        expected.append(others[draws[2 * index + 1] % 6] if draws[2 * index] < 0.4 * 2**64 else label)
    noisy = noisy_labels(labels, 0.4, 7)
    assert noisy.tolist() == expected
    assert noisy.dtype == np.int64
    assert noisy_labels(labels[:100], 0.4, 7).tolist() == expected[:100]


def test_label_noise_is_symmetric_and_of_the_part_that_is_asked_for() -> None:
    labels = np.repeat(np.arange(5), 20_000)
    noisy = noisy_labels(labels, 0.4, 5)
    changed = noisy != labels
    assert abs(changed.mean() - 0.4) < 4 * (0.4 * 0.6 / len(labels)) ** 0.5
    for label in range(5):
        counts = np.bincount(noisy[changed & (labels == label)], minlength=5)
        assert counts[label] == 0
        assert chisquare(np.delete(counts, label)).pvalue > 1e-4
    less = noisy_labels(labels, 0.2, 5)
    assert (less[less != labels] == noisy[less != labels]).all()


def test_label_noise_spares_what_is_evaluated_on_also_a_holdout() -> None:
    truth = {image.astype(int).tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)}

    def wrong(images: np.ndarray, labels: np.ndarray) -> float:
        pixels = np.round(images[..., 0].reshape(len(images), 64) * (16 / 255)).astype(int)
        return np.mean([truth[row.tobytes()] != label for row, label in zip(pixels, labels.tolist(), strict=True)])

    hashes = set()
    for holdout in (0.0, 0.1):
        clean, noisy = (load_data(Data(name="digits", image_size=8, holdout=holdout, label_noise=n)) for n in (0, 0.4))
        assert wrong(noisy.eval_images, noisy.eval_labels) == 0
        assert 0.35 < wrong(noisy.train_images, noisy.train_labels) < 0.45
        assert wrong(clean.train_images, clean.train_labels) == 0
        np.testing.assert_array_equal(clean.train_images, noisy.train_images)
        np.testing.assert_array_equal(clean.eval_images, noisy.eval_images)
        hashes |= {clean.sha256, noisy.sha256}
    assert len(hashes) == 4


def test_without_label_noise_the_hash_of_the_data_is_that_of_its_content() -> None:
    data = load_data(Data(name="digits", image_size=8, label_noise=0))
    hashes = []
    for array in (data.train_images, data.train_labels, data.eval_images, data.eval_labels):
        file = io.BytesIO()
        np.save(file, array)
        hashes.append(hashlib.sha256(file.getvalue()).hexdigest())
    names = ("train_images", "train_labels", "eval_images", "eval_labels")
    content = [dict(zip(names, hashes, strict=True)), [str(digit) for digit in range(10)]]
    whole = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert data.sha256 == whole
    held = hashlib.sha256(json.dumps([whole, 0.25]).encode()).hexdigest()
    assert load_data(Data(name="digits", image_size=8, holdout=0.25)).sha256 == held


def test_without_an_evaluation_split_a_holdout_is_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "a", 6, seed=1)
    with pytest.raises(InputError, match=r"data\.holdout"):
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "I"])
def test_every_kind_of_image_is_read_like_its_rgb_original(tmp_path: Path, mode: str) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    if mode in ("I;16", "I"):
        image = Image.fromarray((grey.astype(np.uint16) * 257) if mode == "I;16" else grey.astype(np.int32) * 257)
    else:
        image = (
            Image.fromarray(grey).convert(mode) if mode == "P" else Image.fromarray(grey).convert("RGB").convert(mode)
        )
    path = tmp_path / ("image.tif" if mode in ("CMYK", "I") else "image.png")
    image.save(path)
    expected = (grey > 127) * 255 if mode == "1" else grey
    found = read_image(path, 8).astype(int)
    tolerance = 255 if mode == "1" else 1  # a bilevel image is dithered
    assert np.abs(found - expected[..., None].astype(int)).max() <= tolerance
    assert set(np.unique(found)) <= {0, 255} or mode != "1"


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    turned = read_image(tmp_path / "turned.png", 8)
    assert turned[:, -1].min() == 255
    assert turned[:, 0].max() == 0


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def not_an_image(path: Path) -> None:
    path.write_text("hello")


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [broken, not_an_image, empty])
def test_a_damaged_image_is_named_and_never_skipped(tmp_path: Path, damage: object) -> None:
    write_folder_data(tmp_path)
    path = tmp_path / "train" / "grey" / "003.png"
    damage(path)  # type: ignore[operator]
    with pytest.raises(InputError, match=r"grey/003\.png"):
        load_data(Data(name="folder", root=str(tmp_path), image_size=8))


def test_many_images_are_decoded_by_workers_to_the_same_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder_data(tmp_path, train=12)
    settings = Data(name="folder", root=str(tmp_path), image_size=8)
    serial = load_data(settings)
    shutil.rmtree(os.environ["COMPRESS_CACHE"] + "/data")
    monkeypatch.setattr("compress.data.decode._WORTH_A_PROCESS", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    parallel = load_data(settings)
    np.testing.assert_array_equal(serial.train_images, parallel.train_images)
    broken(tmp_path / "train" / "light" / "005.png")
    with pytest.raises(InputError, match=r"light/005\.png"):
        load_data(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: shutil.rmtree(root / "train"), "missing"),
        (lambda root: (root / "train" / "void").mkdir(), "void holds no image"),
        (lambda root: write_images(root / "val" / "stranger", 1, seed=0), "stranger"),
        (lambda root: (root / "train" / "dark" / "notes.doc").write_text("x"), r"notes\.doc"),
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


def test_decoding_works_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    write_folder_data(tmp_path)
    script = tmp_path / "script.py"
    script.write_text(
        "import compress.data.decode as images\nimages._WORTH_A_PROCESS = 1\n"
        "from compress.data import load_data\nfrom compress.recipe import Data\n"
        f"print(load_data(Data(name='folder', root={str(tmp_path)!r}, image_size=8)).train_images.shape)\n"
    )
    environment = {**os.environ, "COMPRESS_CACHE": str(tmp_path / "cache")}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=False)
    assert result.stdout.strip() == "(72, 8, 8, 3)", result.stderr


def test_augmentation_defaults_follow_the_data_set() -> None:
    assert resolve_augment(Data(name="digits")).flip is False
    assert (resolve_augment(Data(name="cifar100")).crop, resolve_augment(Data(name="tinyimagenet")).crop) == (4, 8)
    assert resolve_augment(Data.model_validate({"name": "cifar100", "augment": {"scale": 0.5}})).crop == 0
