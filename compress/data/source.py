"""What every kind of data set is read to: its class names, and its splits as files or pixels."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

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
        warnings: what people should know of the data, a sentence each.
    """

    class_names: list[str]
    train: Split
    evaluation: Split | None
    evaluation_name: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labelled:
    """Pictures of one split, by the names of their classes.

    Attributes:
        paths: of the pictures of each class. Names are as `class_name` writes them.
    """

    paths: dict[str, list[str]]

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Self:
        """Of pairs of class name and path."""
        paths: dict[str, list[str]] = {}
        for name, path in pairs:
            paths.setdefault(name, []).append(path)
        return cls(paths)

    def split(self, class_names: list[str]) -> Split:
        """The pictures, class after class in that order, which may name more classes than these pictures have."""
        images: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(class_names):
            found = self.paths.get(name, [])
            images += found
            labels += [label] * len(found)
        return Split(images, labels)


def source_of(
    names: list[str],
    train: Labelled,
    evaluation: Labelled | None = None,
    *,
    evaluation_name: str = "",
    where: str = "",
    warnings: Iterable[str] = (),
) -> Source:
    """A Source of labelled files.

    Args:
        names: of the classes, in their order.
        evaluation_name: for people.
        where: the evaluation split is, for an error.

    Raises:
        InputError: a class to evaluate on is not in train.
    """
    if evaluation is not None and (strangers := sorted(set(evaluation.paths) - set(train.paths))):
        raise InputError(f"class {strangers[0]!r} in {where} is not in train", "The classes must be the same.")
    judged = evaluation.split(names) if evaluation is not None else None
    return Source(names, train.split(names), judged, evaluation_name, tuple(filter(None, warnings)))


def class_name(name: str, where: str) -> str:
    """The name of a class, in Unicode's composed form: the names of a Mac's files are the decomposed form of the same.

    Raises:
        InputError: it has control characters, a line break, or bytes that are no text.
    """
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise InputError(f"class {name!r} in {where} has a name that is not plain text", "Rename it.")
    return unicodedata.normalize("NFC", name)
