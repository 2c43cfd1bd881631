"""Pictures that a table names: CSV or TSV, a picture and its label a line.

In: the table's file. Out: the pictures of each class. Paths are relative to the table. The delimiter, the header and
the two columns are found where they are plain.
"""

import csv
import os
import stat
from pathlib import Path

from compress.data.source import Labelled, Source, class_name, source_of
from compress.recipe import Data
from compress.system.errors import InputError, listed
from compress.system.paths import user_path

PATH_NAMES = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "img", "img_path"),
)
LABEL_NAMES = ("label", "labels", "class", "class_name", "classname", "category", "target")
_DELIMITERS = "\t,;|"


def read_tables(folder: Path, settings: Data) -> Source:
    """The tables data.train and data.evaluation below the folder.

    Raises:
        InputError: a table cannot be read, its columns are not plain, or files that it names are missing.
    """
    assert settings.train is not None
    learned = read_table(folder / user_path(settings.train), settings.path_column, settings.label_column)
    names = sorted(learned.paths, key=label_order)
    if settings.evaluation is None:
        return source_of(names, learned)
    place = folder / user_path(settings.evaluation)
    judged = read_table(place, settings.path_column, settings.label_column)
    return source_of(names, learned, judged, evaluation_name=place.name, where=str(place))


def read_table(table: Path, path_column: str | None = None, label_column: str | None = None) -> Labelled:
    """The pictures of one table.

    Args:
        path_column: its name in the header. Default: a usual name, else the column whose first entry is a file.
        label_column: the same. Default: a usual name, else the only other column.

    Raises:
        InputError: the table cannot be read, its columns are not plain, or files that it names are missing.
    """
    rows = _rows(table)
    header, path_at, label_at = _columns(table, rows[0][1], path_column, label_column)
    pairs: list[tuple[str, str]] = []
    missing: list[str] = []
    for number, row in rows[1:] if header else rows:
        if len(row) <= max(path_at, label_at) or not row[label_at].strip():
            raise InputError(f"{table}, line {number}: no label", "Each line needs a path and a label.")
        path = os.path.join(table.parent, row[path_at].strip())
        if not _is_file(path):
            missing.append(path)
        pairs.append((class_name(row[label_at].strip(), str(table)), path))
    if missing:
        raise InputError(
            f"{len(missing):,} of {len(pairs):,} files that {table} names are missing: {listed(missing)}",
            f"Paths are relative to {table.parent}.",
        )
    if not pairs:
        raise InputError(f"{table} names no picture", "Each line needs a path and a label.")
    return Labelled.of(pairs)


def label_order(name: str) -> tuple[int, int, str]:
    """Sorts labels that are numbers by their value, before all others."""
    number = name.isdecimal()
    return (0, int(name), name) if number else (1, 0, name)


def _rows(table: Path) -> list[tuple[int, list[str]]]:
    """Each row that is not empty, with its line's number."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"cannot read {table} ({getattr(error, 'strerror', None) or error})", "It should be a table in UTF-8."
        ) from None
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(keepends=True), delimiter=max(_DELIMITERS, key=first.count))
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num}: {error}", "Is it a CSV or TSV file?") from None
    if not rows:
        raise InputError(f"{table} is empty", "Each line needs a path and a label.")
    return rows


def _columns(table: Path, first: list[str], path_column: str | None, label_column: str | None) -> tuple[bool, int, int]:
    """Whether the first row is a header, and where paths and labels are."""
    names = [cell.strip() for cell in first]
    known = [name.lower() for name in names]
    files = [place for place, cell in enumerate(names) if cell and _is_file(os.path.join(table.parent, cell))]
    header = not files
    path_at = _named(table, names, path_column) if path_column else None
    label_at = _named(table, names, label_column) if label_column else None
    if header and path_at is None:
        path_at = next((known.index(name) for name in PATH_NAMES if name in known), None)
    if header and label_at is None:
        label_at = next((known.index(name) for name in LABEL_NAMES if name in known), None)
    if not header and path_at is None and len(files) == 1:
        path_at = files[0]
    others = [place for place in range(len(names)) if place != path_at]
    if label_at is None and path_at is not None and len(others) == 1:
        label_at = others[0]
    if path_at is None or label_at is None or path_at == label_at:
        what = "data.path_column" if path_at is None else "data.label_column"
        kind = "a header" if header else "no header"
        raise InputError(
            f"the columns of {table} are not plain (it has {kind}: {', '.join(map(repr, names))})",
            f"Set {what} to the name of a column.",
        )
    return header, path_at, label_at


def _named(table: Path, names: list[str], column: str) -> int:
    if column not in names:
        raise InputError(f"{table} has no column {column!r}", f"Its columns are {', '.join(map(repr, names))}.")
    return names.index(column)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False
