"""What people see: lines and a progress bar on stderr, so that stdout stays free for results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compress.system.streams import Stderr

console = Console(file=cast(IO[str], Stderr()), highlight=False, soft_wrap=True)


def say(text: str) -> None:
    console.print(text, markup=False)


def warn(text: str) -> None:
    console.print(f"warning: {text}", style="yellow", markup=False)


class Bar:
    """A line of progress: what is done of a total, a note, the time that remains. Invisible without a terminal."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress = progress
        self._task = task

    @property
    def visible(self) -> bool:
        return self._progress is not None

    def show(self, done: int, note: str = "") -> None:
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)


_showing: list[Progress] = []
"""The bar on the screen, of which there can be one."""


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Bar]:
    if not console.is_terminal or console.quiet or _showing:
        yield Bar()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        _showing.append(progress)
        try:
            yield Bar(progress, progress.add_task(description, total=total, note=""))
        finally:
            _showing.clear()


@contextmanager
def phases() -> Iterator[Callable[[str, int, int], None]]:
    """Yields what shows (phase, done, total) as a bar for each phase. Silent without a terminal."""
    if not console.is_terminal:
        yield lambda phase, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done, total=total)

        yield show


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
