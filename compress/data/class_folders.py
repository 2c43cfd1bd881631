"""Pictures in a folder for each class.

In: a folder whose folders are classes. Out: the pictures of each class. What is below a class's folder is of the class.
"""

import hashlib
import os
import re
from dataclasses import dataclass

from compress.data.source import Labelled, Source, class_name, source_of
from compress.data.walk import NOT_OPENED, LeftOut, folders_in, pictures_below
from compress.system.errors import InputError, listed

TRAINING = ("train", "training", "train_set", "training_set")
"""Names of the folder to train on, in any case."""
EVALUATIONS = ("val", "valid", "validation", "val_set", "validation_set", "test", "testing", "test_set", "dev", "eval")
"""Names of the folder to evaluate on, in any case. The first that exists is taken."""
_PLAIN = ("train", "val", "valid", "validation", "test")
"""Exactly these are splits whatever they hold. Others hold the folders of classes, else they are classes themselves."""
_UNSAFE = re.compile(r'[/\\:*?"<>|%\x00-\x1f]|^[.#@$~_]|[. ]$')
_LONGEST = 200  # bytes of the name of a folder, of which file systems take 255


@dataclass(frozen=True)
class SplitFolders:
    """Names of folders that are splits.

    Attributes:
        train: None where there is none.
        evaluation: None where there is none.
        unused: more folders with such a name.
    """

    train: str | None
    evaluation: str | None
    unused: list[str]


def read_class_folders(folder: str, left_out: LeftOut, *, empty: bool = False) -> Labelled:
    """The pictures of each class.

    Args:
        folder: holds the classes.
        left_out: what is no part of the data is counted there.
        empty: whether folders without pictures are left out too.

    Raises:
        InputError: there is no class, or a class has no picture or no plain name.
    """
    folders = folders_in(folder, left_out)
    if not folders:
        raise InputError(f"{folder} holds no class folders", "Images belong into train/CLASS/.")
    paths: dict[str, list[str]] = {}
    for name, path in folders.items():
        label = class_name(name, folder)
        of_class = LeftOut()
        found = pictures_below(path, of_class)
        left_out.include(of_class)
        if not found and not empty:
            kinds = f"only {NOT_OPENED}" if NOT_OPENED in of_class.counts else "no image"
            raise InputError(f"class folder {path} holds {kinds}", "Add images, or remove the folder.")
        if found:
            paths[label] = sorted(paths.get(label, []) + found)
    if not paths:
        raise InputError(f"{folder} holds no images", "Images belong into CLASS/.")
    return Labelled(paths)


def folder_name(label: str) -> str:
    """A name for the folder of a class, another for each. What is too long is cut, and ends in a hash of the whole."""
    safe = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", label) or "%"
    if len(safe.encode()) <= _LONGEST:
        return safe
    return f"{safe.encode()[:_LONGEST].decode(errors='ignore')}~{hashlib.sha256(label.encode()).hexdigest()[:16]}"


def split_folders(folder: str) -> SplitFolders:
    """The splits that lie directly in a folder.

    Raises:
        InputError: it cannot be read, or it is not plain which folder is to train on.
    """
    folders = folders_in(folder, LeftOut())
    named = {name: path for name, path in folders.items() if _is_named_like_a_split(name)}
    splits = [name for name, path in named.items() if name in _PLAIN or folders_in(path, LeftOut())]
    # Of two spellings of a name the one in small letters comes first.
    trains = sorted((name for name in splits if name.lower() in TRAINING), key=lambda name: name != "train")
    evaluations = sorted(
        (name for name in splits if name.lower() in EVALUATIONS),
        key=lambda name: (EVALUATIONS.index(name.lower()), name != name.lower()),
    )
    train, evaluation = next(iter(trains), None), next(iter(evaluations), None)
    if train not in (None, "train"):
        others = [name for name, path in folders.items() if name not in named and pictures_below(path, LeftOut())]
        if also := [*trains[1:], *others]:
            raise InputError(
                f"{folder} holds {train}, which has the name of a split, beside {listed(also, 3)}",
                f"Rename {train} to train if it holds the classes to train on. If it is a class, give it another name.",
            )
    return SplitFolders(train, evaluation, [name for name in named if name not in (train, evaluation)])


def read_splits(folder: str, evaluation: str | None = None) -> Source:
    """train/CLASS/*.png, and the same classes for evaluation. Without train/, the classes are in the folder itself.

    Args:
        evaluation: the name of the folder to evaluate on. Default: one of EVALUATIONS.

    Raises:
        InputError: there are no images, a class for evaluation is not in train, or it is not plain which folders are
            splits.
    """
    left_out, found, notes = LeftOut(), split_folders(folder), []
    if found.train is None:
        if found.evaluation is not None:
            raise InputError(
                f"{folder} has {found.evaluation} and no train",
                "Rename the folder to train on to train. If that is a class, give it another name.",
            )
        learned = read_class_folders(folder, left_out, empty=True)
        alike = [name for name in learned.paths if _is_named_like_a_split(name)]
        if len(alike) == len(learned.paths):
            raise InputError(
                f"{folder} holds {listed(alike)} without class folders", "Images belong into train/CLASS/."
            )
        notes = [
            f"{name!r} has the name of a split, and is taken for a class: rename it if it is none" for name in alike
        ]
    else:
        learned = read_class_folders(os.path.join(folder, found.train), left_out)
    place = evaluation or found.evaluation
    if evaluation is None and found.train is not None:
        unused = [name for name in found.unused if pictures_below(os.path.join(folder, name), LeftOut())]
        taken = found.train if place is None else f"{found.train} and {place}"
        notes = [f"left out: {listed(unused)}, beside {taken}"] if unused else []
    judged, where = None, ""
    if place is not None:
        where = os.path.join(folder, place)
        judged = read_class_folders(where, left_out)
    names, warnings = sorted(learned.paths), [str(left_out), *notes]
    return source_of(names, learned, judged, evaluation_name=place or "", where=where, warnings=warnings)


def _is_named_like_a_split(name: str) -> bool:
    return name.lower() in (*TRAINING, *EVALUATIONS)
