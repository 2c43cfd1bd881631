"""SIGINT and SIGTERM.

In: a signal. Out: Interrupted. Within `deferred` it waits until the step is finished; elsewhere it is raised at once. A
command is interrupted only once. Later signals do not disturb saving and cleaning up.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn

from compress.system.errors import Interrupted
from compress.system.platform import signal_self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01  # seconds until a signal is sent again whose exception Python dropped


class Flag:
    """The number of the first signal that arrived, or 0."""

    signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def raise_if_set(self) -> None:
        """Raises Interrupted where a signal has arrived."""
        if self:
            interrupt(self.signal_number)


class _Command:
    interrupted = False


def interrupt(number: int) -> NoReturn:
    """Raises Interrupted. The command then ignores later signals."""
    _Command.interrupted = True
    raise Interrupted(number)


def raise_on_signals() -> None:
    """From now on the first signal raises Interrupted in the main thread. This is for a command, not for a library."""

    def handler(number: int, _: Any) -> None:
        if not _Command.interrupted:
            interrupt(number)

    _Command.interrupted = False
    for number in _SIGNALS:
        signal.signal(number, handler)
    sys.unraisablehook = _send_again


def _send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a signal again whose exception Python dropped, as in finalizers and callbacks of weak references."""
    if not isinstance(lost.exc_value, Interrupted):
        sys.__unraisablehook__(lost)
        return
    _Command.interrupted = False
    again = threading.Timer(_AGAIN, signal_self, (lost.exc_value.signal_number,))
    again.daemon = True
    again.start()


def ignore_signals() -> None:
    """Ignores signals from now on: the command is ending, and prints and cleans up undisturbed."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Deferral:
    """The one Flag of all open `deferred` blocks, and the signal handlers from before the first of them."""

    flag = Flag()
    before: ClassVar[list[Any]] = []
    blocks = 0


def _note(number: int, _: Any) -> None:
    _Deferral.flag.signal_number = _Deferral.flag.signal_number or number


@contextmanager
def deferred() -> Iterator[Flag]:
    """Yields a Flag that the first signal sets. Later signals change nothing.

    Blocks that are open at the same time share the Flag. They may overlap, as those of trainings that take turns do.
    Outside of the main thread the Flag stays 0.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Flag()
        return

    if _Deferral.blocks == 0:
        _Deferral.flag = Flag()
        _Deferral.before = [signal.getsignal(number) for number in _SIGNALS]
    for number in _SIGNALS:  # also where a library, such as Ray, has put a handler of its own in place meanwhile
        signal.signal(number, _note)
    _Deferral.blocks += 1
    try:
        yield _Deferral.flag
    finally:
        _Deferral.blocks -= 1
        if _Deferral.blocks == 0:
            for number, previous in zip(_SIGNALS, _Deferral.before, strict=True):
                signal.signal(number, previous)
