"""The data sets in their published layouts.

In: the root folder of a data set. Out: a Source with class names and splits, as files or pixels; `dataset.py` makes
arrays of it. A student is judged on the official validation or test split. Nothing here allows training on it.
"""

import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.decode import SUFFIXES
from compress.system.errors import InputError

NO_LABEL = -1
"""The label of a picture of data.unlabeled."""


@dataclass(frozen=True)
class Split:
    """Images with a class index each. The images are paths, or pixels as uint8 [N, H, W, 3]."""

    images: list[str] | NDArray[np.uint8]
    labels: list[int]


@dataclass(frozen=True)
class Source:
    """A data set as its layout gives it.

    Attributes:
        evaluation: None where the layout has no split to evaluate on. Then data.holdout is needed.
        evaluation_name: for people.
    """

    class_names: list[str]
    train: Split
    evaluation: Split | None
    evaluation_name: str


@dataclass(frozen=True)
class Layout:
    """What is known of a data set before it is read.

    Attributes:
        folder: its folder below the root; empty where the root itself is the data set.
        marker: a path inside that folder, which shows that the data set is there.
        image_size: default, in pixels a side; 0 where the recipe must say it.
        crop: default padding in pixels for random crops.
        flip: default of mirroring.
        read: makes a Source of the folder.
    """

    folder: str
    marker: str
    image_size: int
    crop: int
    flip: bool
    read: Callable[[Path], Source]


def read_cifar100(folder: Path) -> Source:
    """CIFAR-100 in its Python version: the files meta, train and test. Raises InputError where one is damaged."""
    meta = _load_cifar_pickle(folder / "meta")
    names = [str(name) for name in meta["fine_label_names"]]
    splits: dict[str, Split] = {}
    for name in ("train", "test"):
        batch = _load_cifar_pickle(folder / name)
        try:
            pixels = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = [int(label) for label in batch["fine_labels"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{folder / name} is not a CIFAR-100 batch ({error})", "Unpack the archive anew."
            ) from None
        if len(pixels) != len(labels) or not labels or not 0 <= min(labels) <= max(labels) < len(names):
            raise InputError(f"{folder / name}: images and labels do not fit together", "Unpack the archive anew.")
        splits[name] = Split(pixels, labels)
    return Source(names, splits["train"], splits["test"], "test")


def read_tiny_imagenet(folder: Path) -> Source:
    """Tiny ImageNet: train/WNID/images/*.JPEG, and val/images/*.JPEG with val_annotations.txt.

    Its test split has no labels.

    Raises:
        InputError: a file is missing, or a class of val is not in train.
    """
    wnids, train = _class_folders(folder / "train")
    index = {wnid: number for number, wnid in enumerate(wnids)}
    images: list[str] = []
    labels: list[int] = []
    annotations = folder / "val" / "val_annotations.txt"
    for number, line in enumerate(_read_text(annotations).splitlines(), start=1):
        name, _, rest = line.partition("\t")
        wnid = rest.partition("\t")[0]
        if wnid not in index:
            raise InputError(
                f"{annotations}, line {number}: class {wnid!r} is not in train", "Unpack the archive anew."
            )
        images.append(str(folder / "val" / "images" / name))
        labels.append(index[wnid])
    return Source(_wnid_names(folder / "words.txt", wnids), train, Split(images, labels), "val")


def read_cinic10(folder: Path) -> Source:
    """CINIC-10: a folder for each class in train/ and test/. Its valid/ is not used."""
    return read_folder(folder, evaluations=("test",))


def read_folder(folder: Path, evaluations: tuple[str, ...] = ("val", "valid", "validation", "test")) -> Source:
    """A folder of one's own: train/CLASS/*.png, and the same classes for evaluation.

    The first of the evaluation folders that exists is taken.

    Raises:
        InputError: there are no images, a file is no image, or a class for evaluation is not in train.
    """
    names, train = _class_folders(folder / "train")
    found = next((name for name in evaluations if (folder / name).is_dir()), None)
    if found is None:
        return Source(names, train, None, "")
    eval_names, evaluation = _class_folders(folder / found)
    if strangers := sorted(set(eval_names) - set(names)):
        raise InputError(f"class {strangers[0]!r} in {folder / found} is not in train", "The classes must be the same.")
    labels = [names.index(eval_names[label]) for label in evaluation.labels]
    return Source(names, train, Split(evaluation.images, labels), found)


def read_digits(_: Path) -> Source:
    """scikit-learn's 1,797 handwritten digits of 8 x 8 pixels. Every fifth image of a class is for evaluation."""
    from sklearn.datasets import load_digits  # takes a second to import

    digits: Any = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(pixels[..., None], 3, axis=3)
    labels = digits.target.astype(np.int64)
    evaluation = every_nth(labels, 5)
    return Source(
        [str(digit) for digit in range(10)],
        Split(images[~evaluation], labels[~evaluation].tolist()),
        Split(images[evaluation], labels[evaluation].tolist()),
        "every fifth image",
    )


LAYOUTS: dict[str, Layout] = {
    "cifar100": Layout("cifar-100-python", "train", 32, 4, True, read_cifar100),
    "cinic10": Layout("CINIC-10", "train", 32, 4, True, read_cinic10),
    "tinyimagenet": Layout("tiny-imagenet-200", "train", 64, 8, True, read_tiny_imagenet),
    "digits": Layout("", "", 16, 1, False, read_digits),
    "folder": Layout("", "train", 0, 4, True, read_folder),
}


def data_roots(root: str | None) -> list[Path]:
    """The folders in which data is searched: root if it is given, else $COMPRESS_DATA and then data/."""
    given = [root] if root else [os.environ.get("COMPRESS_DATA"), "data"]
    return [Path(place).expanduser() for place in given if place]


def find(name: str, root: str | None) -> Path | None:
    """The data set's folder in a root, or that root itself. None where it is not there."""
    layout = LAYOUTS[name]
    if name == "digits":
        return Path()
    folders = [folder for base in data_roots(root) for folder in (base / layout.folder, base)]
    return next((folder for folder in folders if (folder / layout.marker).exists()), None)


def locate(name: str, root: str | None) -> Path:
    """Like `find`. Raises InputError where the data set is not there."""
    if (found := find(name, root)) is not None:
        return found
    layout = LAYOUTS[name]
    expected = data_roots(root)[0] / layout.folder / layout.marker
    hint = f"Run `compress data prepare {name}`, or point data.root or $COMPRESS_DATA to the folder that holds it."
    if name == "folder":
        hint = "A folder of one's own holds train/CLASS/*.png and val/CLASS/*.png."
    raise InputError(f"no {name} data: {expected} is missing", hint)


def every_nth(labels: NDArray[np.int64], n: float) -> NDArray[np.bool_]:
    """Chooses one in n of each class, evenly over its images and at least one. The choice is always the same.

    Args:
        labels: int64 [N].

    Returns:
        bool [N].
    """
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        count = max(1, round(len(rows) / n))
        chosen[rows[(np.arange(count) * len(rows)) // count]] = True
    return chosen


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles containers and numpy arrays. It refuses every other name, so that no code can run."""

    _ALLOWED = frozenset(
        {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}
        | {(module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _load_cifar_pickle(path: Path) -> dict[str, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", "Unpack the archive anew.") from None
    except Exception as error:
        raise InputError(f"{path} is not a whole CIFAR-100 file ({error})", "Unpack the archive anew.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a CIFAR-100 file", "Unpack the archive anew.")
    return content


def _class_folders(folder: Path) -> tuple[list[str], Split]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "It should hold a folder for each class.") from None
    if not names:
        raise InputError(f"{folder} holds no class folders", "Images belong into train/CLASS/.")
    images: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        if not name.isprintable():
            raise InputError(f"class folder {name!r} in {folder} has a name that is not plain text", "Rename it.")
        files = sorted(_image_files(folder / name))
        if not files:
            raise InputError(f"class folder {folder / name} holds no image", "Add images, or remove the folder.")
        images += files
        labels += [label] * len(files)
    return names, Split(images, labels)


def _image_files(folder: Path) -> list[str]:
    files: list[str] = []
    for parent, _, names in os.walk(folder):
        for name in names:
            if Path(name).suffix.lower() in SUFFIXES:
                files.append(os.path.join(parent, name))
            elif not name.startswith(".") and name != "Thumbs.db" and not name.endswith("_boxes.txt"):
                raise InputError(f"{os.path.join(parent, name)} is not an image file", "Remove it from the folder.")
    return files


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error})", "Unpack the archive anew.") from None


def _wnid_names(words: Path, wnids: list[str]) -> list[str]:
    """The first English word of each WordNet id, with the id where two ids share the word."""
    table = dict(line.split("\t", 1) for line in _read_text(words).splitlines() if "\t" in line)
    firsts = [table.get(wnid, wnid).split(",")[0].strip() for wnid in wnids]
    return [f"{name} ({wnid})" if firsts.count(name) > 1 else name for name, wnid in zip(firsts, wnids, strict=True)]
