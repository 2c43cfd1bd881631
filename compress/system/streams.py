"""Standard output and error, which may be closed from the start or go away while the work goes on."""

import os
import sys
from typing import Any


def ensure_open() -> None:
    """Opens /dev/null where a standard stream is closed, lest the next file that is opened takes its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - it stays open, as the one it stands for


def silence(number: int) -> None:
    """Sends what is still written to a standard stream (1 or 2) nowhere; Python flushes it once more at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


class Stderr:
    """sys.stderr for progress: where its reader or terminal is gone, the lines are dropped and the work goes on."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @property
    def _file(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # rich puts a proxy there while it shows a bar

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
