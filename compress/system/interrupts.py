"""SIGINT and SIGTERM: inside `deferred` they wait for the step to finish, elsewhere they raise Interrupted at once.

A command is interrupted once. Signals that come after that do not cut short what is saved and tidied up.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NoReturn

from compress.system.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN = 0.01  # seconds until a signal whose exception was lost is sent again


class Flag:
    """The number of the first signal that arrived, or 0."""

    signal_number = 0

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def raise_if_set(self) -> None:
        if self:
            interrupt(self.signal_number)


class _Command:
    interrupted = False


def interrupt(number: int) -> NoReturn:
    """Raises Interrupted. From then on a command takes no more signals."""
    _Command.interrupted = True
    raise Interrupted(number)


def raise_on_signals() -> None:
    """From now on the first signal raises Interrupted in the main thread. For a command, not for a library's caller."""

    def handler(number: int, _: Any) -> None:
        if not _Command.interrupted:
            interrupt(number)

    _Command.interrupted = False
    for number in _SIGNALS:
        signal.signal(number, handler)
    sys.unraisablehook = _send_again


def _send_again(lost: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised inside a finalizer or a weak reference's callback, and a signal may come there."""
    if not isinstance(lost.exc_value, Interrupted):
        sys.__unraisablehook__(lost)
        return
    _Command.interrupted = False
    again = threading.Timer(_AGAIN, os.kill, (os.getpid(), lost.exc_value.signal_number))
    again.daemon = True
    again.start()


def ignore_signals() -> None:
    """For a command that ends: what it still says and tidies up is not cut short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class _Deferral:
    """The one Flag of all `deferred` blocks that are open, and what the signals did before the first of them."""

    flag = Flag()
    before: ClassVar[list[Any]] = []
    blocks = 0


@contextmanager
def deferred() -> Iterator[Flag]:
    """Yields a Flag that a signal sets; further signals change nothing. Outside the main thread it stays 0.

    Blocks that are open at the same time, also ones that overlap as those of trainings in turns do, share the Flag.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Flag()
        return

    def handler(number: int, _: Any) -> None:
        _Deferral.flag.signal_number = _Deferral.flag.signal_number or number

    if _Deferral.blocks == 0:
        _Deferral.flag = Flag()
        _Deferral.before = [signal.signal(number, handler) for number in _SIGNALS]
    _Deferral.blocks += 1
    try:
        yield _Deferral.flag
    finally:
        _Deferral.blocks -= 1
        if _Deferral.blocks == 0:
            for number, previous in zip(_SIGNALS, _Deferral.before, strict=True):
                signal.signal(number, previous)
