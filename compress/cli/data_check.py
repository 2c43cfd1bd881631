"""`compress data check`: a table of what was found in the pictures, or JSON."""

import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from compress.data.check import Report
from compress.system.errors import InputError
from compress.system.paths import user_path

_SHOWN = 3
_WIDTH = 160  # columns where the table goes into a file
_STYLES = {"stops": "red", "warns": "yellow", "notes": ""}


def show(report: Report, root: str | None) -> None:
    """Prints what the data set is, and the table. root: the recipe's, which is taken off the names of files."""
    folder = None if root is None else user_path(root)
    if report.classes:
        sizes = ", ".join(f"{name} {width} x {height}" for name, (width, height) in report.sizes.items())
        print(
            f"{report.train_images:,} pictures to train on, {report.eval_images:,} to evaluate on "
            f"({report.eval_split or 'no split'}), {len(report.classes)} classes; sizes: {sizes or 'none'}"
        )
    if not report.findings:
        print("nothing to complain of")
        return
    table = Table(show_lines=True)
    for column in ("", "what", "how many", "which", "what to do"):
        table.add_column(column, justify="right" if column == "how many" else "left", overflow="fold")
    for finding in report.findings:
        entries = [" = ".join(group[:_SHOWN]) for group in finding.groups] or finding.files
        lines = [_below(entry, folder) for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"and {len(entries) - _SHOWN:,} more (--json lists all)")
        row = (finding.level, finding.what, f"{finding.count:,}", "\n".join(lines), finding.do)
        table.add_row(*(_plain(cell) for cell in row), style=_STYLES[finding.level])
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH).print(table)


def raise_if_stopped(report: Report) -> None:
    """Raises InputError where something would stop a training."""
    if stops := report.stops:
        kinds = ", ".join(f"{finding.what} ({finding.count:,})" for finding in stops)
        raise InputError(f"this data would stop a training: {kinds}", stops[0].do)


def _below(entry: str, root: Path | None) -> str:
    return entry if root is None else entry.replace(f"{root}{os.sep}", "")


def _plain(text: str) -> str:
    """Without rich's markup and without control characters in names of files."""
    shown = "".join(character if character.isprintable() or character == "\n" else "?" for character in text)
    return shown.replace("[", r"\[")
