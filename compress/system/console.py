"""Shows the log and progress bars to people.

In: log records of the loggers `compress` and `export`, which the library uses. Out: lines on stderr, so that stdout is
free for results. The command line calls `show_log`. Any other program decides by its own logging setup.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compress.system.streams import Stderr

console = Console(file=cast(IO[str], Stderr()), highlight=False, soft_wrap=True)


_LOGGERS = ("compress", "export")


class _Handler(logging.Handler):
    """Prints a record as a line. A warning begins with that word."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            console.print(f"warning: {record.getMessage()}", style="yellow", markup=False)
        else:
            say(record.getMessage())


_handler = _Handler()


def show_log() -> None:
    """Shows the library's log on stderr from now on. On a terminal its long steps have progress bars."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.addHandler(_handler)  # a handler that is already there is not added again
        logger.propagate = False  # a library that configures the root logger would show each line twice


def shows_log() -> bool:
    """Whether `show_log` was called."""
    return _handler in logging.getLogger(_LOGGERS[0]).handlers


@contextmanager
def silenced(silent: bool) -> Iterator[None]:
    """Within the block nothing is shown if `silent`. Of several processes only the leader is shown."""
    if not silent:
        yield
        return
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def say(text: str) -> None:
    """Prints a line of a command's own result or progress. The library logs instead."""
    console.print(text, markup=False)


class Bar:
    """A progress bar: the part that is done, a note, and the remaining time. Without a terminal it is invisible."""

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress = progress
        self._task = task

    @property
    def visible(self) -> bool:
        return self._progress is not None

    def show(self, done: int, note: str = "") -> None:
        """Moves the bar. done: in the unit of the bar's total."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, note=note)


_showing: list[Progress] = []
"""The bar on the screen. There is at most one."""


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Bar]:
    """A bar within the block. It is invisible without `show_log`, without a terminal, or while another bar is shown.

    Args:
        total: None where it is not known.
    """
    if not shows_log() or not console.is_terminal or console.quiet or _showing:
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
    """Yields a function (phase, done, total) that shows a bar for each phase, where `progress_bar` would be visible."""
    if not shows_log() or not console.is_terminal or console.quiet or _showing:
        yield lambda phase, done, total: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = progress.add_task(phase, total=total)
            progress.update(tasks[phase], completed=done, total=total)

        _showing.append(progress)
        try:
            yield show
        finally:
            _showing.clear()


def duration(seconds: float) -> str:
    """Seconds as text: in seconds up to 90 s, in minutes up to 90 min, else in hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
