"""Standard output and standard error, which may be closed at the start or go away during the work."""

import io
import os
import sys
from typing import Any


def ensure_open() -> None:
    """Opens /dev/null in place of a closed standard stream.

    Otherwise the next file that is opened would take the number of that stream.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it stays open, like a standard stream


def show_any_text() -> None:
    """Prints what a terminal's encoding lacks as escapes, also undecodable file names. Otherwise it is an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def outlive_the_reader() -> None:
    """What nobody reads any more on standard output (`| head`) is dropped. The work goes on, to its own exit code."""
    old = sys.stdout
    if not isinstance(old, io.TextIOWrapper) or not isinstance(getattr(old.buffer, "raw", old.buffer), io.FileIO):
        return  # no file: text in memory, or a console of Windows
    raw = _Stdout(old.fileno(), "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        raw if old.write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


class _Stdout(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            silence(self.fileno())
            return len(data)


def silence(number: int) -> None:
    """Discards what is still written to a standard stream (1 or 2). Python flushes it once more when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


class Stderr:
    """sys.stderr for progress. Where its reader or terminal is gone, lines are dropped and the work continues."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @property
    def _file(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # rich puts a proxy here while it shows a bar

    def write(self, text: str) -> int:
        try:
            return self._file.write(text)
        except OSError:
            silence(2)
            return len(text)

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError:
            silence(2)
