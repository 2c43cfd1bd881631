"""Labels that are wrong on purpose: which and how many, in training alone, and in the hash of the data."""

import hashlib
import io
import json

import numpy as np
from scipy.stats import chisquare
from sklearn.datasets import load_digits

from compress.data.dataset import load_data, noisy_labels
from compress.recipe import Data


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
