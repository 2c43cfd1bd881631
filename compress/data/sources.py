"""The data sets in their published layouts.

In: the root folder of a data set. Out: a Source with class names and splits, as files or pixels; `dataset.py` makes
arrays of it. A student is judged on the official validation or test split. Nothing here allows training on it.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.data.cifar import read_cifar100
from compress.data.class_folders import read_class_folders, read_splits, split_folders
from compress.data.source import Source, Split
from compress.data.tables import read_tables
from compress.data.walk import LeftOut, folders_in
from compress.recipe import Data
from compress.system.errors import InputError
from compress.system.paths import user_path

_CINIC10 = frozenset(["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"])
_TINY_IMAGENET_SHA256 = "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8"
"""Of its 200 WordNet ids, sorted, a line each."""


@dataclass(frozen=True)
class Layout:
    """What is known of a data set before it is read.

    Attributes:
        folder: its folder below the root; empty where the root itself is the data set.
        marker: a path inside that folder, which shows that the data set is there. For a folder of one's own `holds`
            shows it.
        image_size: default, in pixels a side; 0 where the recipe must say it.
        crop: default padding in pixels for random crops.
        flip: default of mirroring.
        read: makes a Source of the folder, as the recipe's data section wants it.
        holds: whether a folder of another name is this data set. Its class names decide.
        packed: the files that hold all pictures. Empty where each picture is a file.
    """

    folder: str
    marker: str
    image_size: int
    crop: int
    flip: bool
    read: Callable[[Path, Data], Source]
    holds: Callable[[Path], bool] = lambda _: False
    packed: tuple[str, ...] = ()

    def chosen(self, settings: Data) -> tuple[str | None, ...]:
        """What of the folder is the data set, where that is not all of it."""
        tables = (settings.train, settings.evaluation, settings.path_column, settings.label_column)
        return tables if self.read is read_tables else ()

    @property
    def in_files(self) -> bool:
        """Whether each picture is a file of its own."""
        return not self.packed and self.read is not read_digits


def read_tiny_imagenet(folder: Path, _settings: Data) -> Source:
    """Tiny ImageNet: train/WNID/images/*.JPEG, and val/images/*.JPEG with val_annotations.txt.

    Its test split has no labels.

    Raises:
        InputError: a file is missing, the classes are others, or a class of val is not in train.
    """
    if not _holds_tiny_imagenet(folder):
        raise _other_classes(folder, "tinyimagenet")
    learned = read_class_folders(str(folder / "train"), LeftOut())
    wnids = sorted(learned.paths)
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
    names = _wnid_names(folder / "words.txt", wnids)
    return _counted(Source(names, learned.split(wnids), Split(images, labels), "val"), folder, 100_000, 10_000)


def read_cinic10(folder: Path, _settings: Data) -> Source:
    """CINIC-10: a folder for each class in train/ and test/. Its valid/ is not used.

    Raises:
        InputError: there are no images, or the classes are others.
    """
    if not _holds_cinic10(folder):
        raise _other_classes(folder, "cinic10")
    return _counted(read_splits(str(folder), evaluation="test"), folder, 90_000, 90_000)


def read_folder(folder: Path, _settings: Data) -> Source:
    """A folder of one's own: train/CLASS/*.png, and the same classes for evaluation. Or CLASS/*.png alone.

    The first of the evaluation folders that exists is taken.

    Raises:
        InputError: as `read_splits`.
    """
    return read_splits(str(folder))


def read_hub(folder: Path, _settings: Data) -> Source:
    """A data set of the Hub, in the folder to which it was unpacked."""
    from compress.data.hub import read_unpacked

    return read_unpacked(folder)


def read_digits(_folder: Path, _settings: Data) -> Source:
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


def _class_names(folder: Path) -> set[str]:
    return set(folders_in(str(folder / "train"), LeftOut())) if (folder / "train").is_dir() else set()


def _holds_cinic10(folder: Path) -> bool:
    return _class_names(folder) == _CINIC10


def _holds_tiny_imagenet(folder: Path) -> bool:
    return hashlib.sha256("\n".join(sorted(_class_names(folder))).encode()).hexdigest() == _TINY_IMAGENET_SHA256


def _holds_train(folder: Path) -> bool:
    return folder.is_dir() and split_folders(str(folder)).train is not None


def _holds_cifar100(folder: Path) -> bool:
    return (folder / "meta").is_file()


def _other_classes(folder: Path, name: str) -> InputError:
    names = sorted(_class_names(folder))
    some = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return InputError(
        f"{folder} is not {name}: it has {len(names)} classes ({some})",
        "For pictures of your own set data.name to folder.",
    )


def _counted(source: Source, folder: Path, train: int, evaluation: int) -> Source:
    """Warns where a published data set is not whole."""
    found = len(source.train.labels), len(source.evaluation.labels) if source.evaluation else 0
    if found == (train, evaluation):
        return source
    text = f"{folder} holds {found[0]:,} and {found[1]:,} pictures, published are {train:,} and {evaluation:,}"
    return replace(source, warnings=(*source.warnings, text))


LAYOUTS: dict[str, Layout] = {
    "cifar100": Layout(
        *("cifar-100-python", "train", 32, 4, True, lambda folder, _: read_cifar100(folder)),
        holds=_holds_cifar100,
        packed=("meta", "train", "test"),
    ),
    "cinic10": Layout("CINIC-10", "train", 32, 4, True, read_cinic10, _holds_cinic10),
    "tinyimagenet": Layout("tiny-imagenet-200", "train", 64, 8, True, read_tiny_imagenet, _holds_tiny_imagenet),
    "digits": Layout("", "", 16, 1, False, read_digits),
    "folder": Layout("", "train", 0, 4, True, read_folder, _holds_train),
    "csv": Layout("", "", 0, 4, True, read_tables, lambda _: True),
    "hub": Layout("", "", 0, 4, True, read_hub, lambda _: True),
}


def data_roots(root: str | None) -> list[Path]:
    """The folders in which data is searched: root if it is given, else $COMPRESS_DATA and then data/."""
    given = [root] if root else [os.environ.get("COMPRESS_DATA"), "data"]
    return [user_path(place) for place in given if place]


def find(name: str, root: str | None) -> Path | None:
    """The data set's folder in a root, or a given root that is that folder itself. None where it is not there."""
    layout = LAYOUTS[name]
    if name == "digits":
        return Path()
    roots = data_roots(root)
    for number, base in enumerate(roots):
        if layout.folder and (base / layout.folder / layout.marker).exists():
            return base / layout.folder
        given = bool(root) or number < len(roots) - 1  # all but data/, which may hold other pictures
        there = layout.read is read_folder or (base / layout.marker).exists()
        if given and there and layout.holds(base):
            return base
    return None


def locate(name: str, root: str | None) -> Path:
    """Like `find`. Raises InputError where the data set is not there."""
    if (found := find(name, root)) is not None:
        return found
    layout, base = LAYOUTS[name], data_roots(root)[0]
    if root is not None and (base / layout.marker).exists():
        raise _other_classes(base, name)
    hints = {
        "folder": "A folder of one's own holds train/CLASS/*.png and val/CLASS/*.png. CLASS/*.png needs data.holdout.",
        "csv": "data.root is the folder of the tables.",
    }
    get = f"Run `compress data prepare {name}`, or point data.root or $COMPRESS_DATA to the folder that holds it."
    raise InputError(f"no {name} data: {base / layout.folder / layout.marker} is missing", hints.get(name, get))


def is_there(settings: Data) -> bool:
    """Whether the data that a recipe names is in its root. Raises InputError as `find_whole`."""
    return find_whole(settings) is not None or find(settings.name, settings.root) is not None


def data_folder(settings: Data) -> Path:
    """Where the data of a recipe is. What comes from the Hub is fetched before.

    Raises:
        InputError: it is not there.
        MachineError: the Hub cannot be reached, or its data cannot be written.
    """
    if settings.name == "hub":
        from compress.data.hub import unpacked

        return unpacked(settings)
    return find_whole(settings) or locate(settings.name, settings.root)


def find_whole(settings: Data) -> Path | None:
    """The folder of classes without splits that a recipe with data.holdout names. None where that is not there.

    Raises:
        InputError: it is not plain which of its folders is to train on.
    """
    if settings.name != "folder" or not settings.holdout or not settings.root:
        return None
    (root,) = data_roots(settings.root)
    if not root.is_dir():
        return None
    found = split_folders(str(root))
    return root if found.train is None and found.evaluation is None else None


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
