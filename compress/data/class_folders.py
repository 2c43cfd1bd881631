"""Pictures in a folder for each class.

In: a folder whose folders are classes. Out: the pictures of each class. What is below a class's folder is of the class.
"""

import os

from compress.data.source import Labelled, Source, class_name, source_of
from compress.data.walk import NOT_OPENED, LeftOut, folders_in, pictures_below
from compress.system.errors import InputError

EVALUATIONS = ("val", "valid", "validation", "test")
"""Names of the folder to evaluate on. The first that exists is taken."""


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
        found = pictures_below(path, left_out)
        if not found and not empty:
            kinds = f"only {NOT_OPENED}" if NOT_OPENED in left_out.counts else "no image"
            raise InputError(f"class folder {path} holds {kinds}", "Add images, or remove the folder.")
        if found:
            paths[label] = sorted(paths.get(label, []) + found)
    if not paths:
        raise InputError(f"{folder} holds no images", "Images belong into CLASS/.")
    return Labelled(paths)


def read_splits(folder: str, evaluations: tuple[str, ...] = EVALUATIONS) -> Source:
    """train/CLASS/*.png, and the same classes for evaluation. Without train/, the classes are in the folder itself.

    Raises:
        InputError: there are no images, or a class for evaluation is not in train.
    """
    left_out = LeftOut()
    train, place = os.path.join(folder, "train"), None
    if os.path.isdir(train):
        learned = read_class_folders(train, left_out)
        place = next((name for name in evaluations if os.path.isdir(os.path.join(folder, name))), None)
    else:
        learned = read_class_folders(folder, left_out, empty=True)
    names = sorted(learned.paths)
    if place is None:
        return source_of(names, learned, warnings=[str(left_out)])
    where = os.path.join(folder, place)
    judged = read_class_folders(where, left_out)
    return source_of(names, learned, judged, evaluation_name=place, where=where, warnings=[str(left_out)])
