"""Lists the pictures below a folder. Every place that looks for pictures uses this one rule.

In: a folder. Out: the paths of its pictures, sorted, and what was left out. No file is opened, and none but links and
folders is asked for its status, so that a million files take seconds.
"""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from compress.system.errors import InputError

_SYSTEM = frozenset(
    {
        *("__macosx", "icon\r", "lost+found", "lost.dir", "__pycache__"),
        *("$recycle.bin", "system volume information", "desktop.ini", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"),
        *("@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb", ".@__thumb"),
        *("picasa.ini", "~snapshot"),
    }
)
_STREAMS = (":zone.identifier", ":encryptable")  # Windows' alternate streams, as Linux sees them
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
"""Formats that Pillow names, and does not decode everywhere without another program."""
_OTHER_PICTURES = frozenset(
    {
        *(".heic", ".heif", ".hif", ".jxl", ".svg"),
        *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2"),
    }
)

NOT_OPENED = "pictures of a kind that Pillow does not open"
OTHER_FILES = "files that are no pictures by their ending"
SPECIAL = "pipes, sockets or devices"
LOOPS = "links to folders that were read already"
LOOSE = "pictures in no class folder"
_WHAT_TO_DO = {
    NOT_OPENED: "convert them, for example by `magick mogrify -format jpg FILE`",
    LOOSE: "move them into one",
}


@dataclass
class LeftOut:
    """What lies there and is no part of the data: how many of each kind, and the first of each. Hidden files are not
    counted."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, path: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.examples[kind] = min(path, self.examples.get(kind, path))

    def include(self, other: "LeftOut") -> None:
        """Counts what another one has, too."""
        for kind, count in other.counts.items():
            self.add(kind, other.examples[kind])
            self.counts[kind] += count - 1

    def __str__(self) -> str:
        """One line for people. Empty where nothing was left out."""
        parts = []
        for kind, count in sorted(self.counts.items()):
            advice = f"; {_WHAT_TO_DO[kind]}" if kind in _WHAT_TO_DO else ""
            parts.append(f"{count:,} ({kind}, such as {self.examples[kind]!r}{advice})")
        return "left out: " + ", ".join(parts) if parts else ""


@functools.cache
def picture_endings() -> frozenset[str]:
    """The endings of the pictures that the installed Pillow opens, in lower case, each with its dot."""
    from PIL import Image

    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind not in _NO_PICTURES)


def is_picture(name: str) -> bool:
    """Whether the name ends like a picture that Pillow opens."""
    return name[name.rfind(".") :].lower() in picture_endings()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or belongs to an operating system, a file manager or a NAS."""
    return name[0] == "." or name.lower() in _SYSTEM or name.lower().endswith(_STREAMS)


def pictures_below(folder: str, left_out: LeftOut) -> list[str]:
    """The pictures in a folder and in all folders below it. Links are followed. A folder is read once.

    A link to nowhere that ends like a picture is listed, so that whoever opens it names it.

    Args:
        folder: its path, with which all paths begin.
        left_out: what is no picture is counted there.

    Returns:
        The sorted paths.

    Raises:
        InputError: a folder cannot be read.
    """
    endings, paths = picture_endings(), []
    for entry in _files(folder, left_out):
        name = entry.name
        if name[name.rfind(".") :].lower() in endings:
            paths.append(entry.path)
        else:
            other = os.path.splitext(name)[1].lower() in _OTHER_PICTURES
            left_out.add(NOT_OPENED if other else OTHER_FILES, entry.path)
    paths.sort()
    return paths


def files_below(folder: str, *, unless: str) -> list[str]:
    """All visible files in a folder and in all folders below it, sorted. Links are followed. A folder is read once.

    Args:
        folder: its path, with which all paths begin.
        unless: folders below it that hold a file of that name are passed over.

    Raises:
        InputError: a folder cannot be read.
    """
    return sorted(entry.path for entry in _files(folder, LeftOut(), unless))


def folders_in(folder: str, left_out: LeftOut) -> dict[str, str]:
    """The folders that lie directly in a folder: name and path, sorted. Pictures beside them count as left out.

    Raises:
        InputError: the folder cannot be read.
    """
    above = _identities_above(folder)
    found = {}
    for entry in _entries(folder):
        if _kind(entry) != "folder":
            if is_picture(entry.name):
                left_out.add(LOOSE, entry.path)
        elif _identity(entry.path) in above:
            left_out.add(LOOPS, entry.path)
        else:
            found[entry.name] = entry.path
    return dict(sorted(found.items()))


def _files(folder: str, left_out: LeftOut, unless: str | None = None) -> Iterator[os.DirEntry[str]]:
    """The files of `pictures_below` and `files_below`, in no order. What is neither file nor folder is counted."""
    seen, stack = _identities_above(folder), [folder]
    while stack:
        for entry in _entries(stack.pop()):
            kind = _kind(entry)
            if kind == "special":
                left_out.add(SPECIAL, entry.path)
            elif kind == "file":
                yield entry
            elif (identity := _identity(entry.path)) in seen:
                left_out.add(LOOPS, entry.path)
            else:
                seen.add(identity)
                if unless is None or not os.path.lexists(os.path.join(entry.path, unless)):
                    stack.append(entry.path)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """What is visible in a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not is_hidden(entry.name):
                    yield entry
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}", "It should be a folder of pictures.") from None


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "special"]:
    """Of what a link leads to, too. A link to nowhere is a file."""
    try:
        if entry.is_file(follow_symlinks=False):
            return "file"
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not os.path.exists(entry.path) else "special"
    except OSError:  # a link that leads to itself
        return "file"


def _identities_above(folder: str) -> set[tuple[int, int]]:
    """Of a folder and of all that it is in, by the path as it is given and by the real path."""
    places: set[str] = set()
    for path in (os.path.abspath(folder), os.path.realpath(folder)):
        while path not in places:
            places.add(path)
            path = os.path.dirname(path)
    return {_identity(path) for path in places if os.path.exists(path)}


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
