"""Small data sets on disk, and a recipe that trains on one in seconds."""

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

TINY = """\
data: {name: folder, root: DATA, image_size: 8, augment: {crop: 1}}
teacher: {model: resnet10t, args: {channels: [8, 8, 16, 16]}, epochs: 2}
student: {model: resnet10t, args: {channels: [8, 8, 8, 8]}}
supervision: {method: ka+dtd}
train: {epochs: 2, batch_size: 16, lr: 0.05}
"""


def write_images(folder: Path, count: int, *, seed: int, size: int = 8, shade: int = 0) -> None:
    """Noise around a shade, so that classes of different shades can be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        noise = generator.integers(0, 80, (size, size, 3))
        Image.fromarray((noise + shade).astype(np.uint8)).save(folder / f"{number:03d}.png")


def write_folder_data(root: Path, *, train: int = 24, evaluation: int = 8) -> Path:
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(root / "train" / name, train, seed=number, shade=80 * number)
        write_images(root / "val" / name, evaluation, seed=100 + number, shade=80 * number)
    return root


def write_cifar100(root: Path, train: int = 40, test: int = 12) -> dict[str, np.ndarray]:
    """Noise in the published format, four classes in turn: uint8 [N, 3072] of both splits, as written."""
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


def write_tiny_imagenet(root: Path) -> None:
    """As published, three classes: four pictures of each to train on, one to evaluate on."""
    folder = root / "tiny-imagenet-200"
    for number, wnid in enumerate(("n02", "n01", "n03")):
        write_images(folder / "train" / wnid / "images", 4, seed=number, size=64)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
    write_images(folder / "val" / "images", 3, seed=9, size=64)
    rows = ["000.png\tn03\t0\t0\t1\t1", "001.png\tn01\t0\t0\t1\t1", "002.png\tn02\t0\t0\t1\t1"]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    (folder / "words.txt").write_text("n01\tcrane, bird\nn02\tcrane, machine\nn03\tgoldfish, Carassius\n")


def smooth_picture(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Colours that change smoothly, as in a photo, so that it looks alike after any good resampling."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
