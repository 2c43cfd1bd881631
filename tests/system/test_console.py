"""Progress bars on a terminal: one at a time, since rich before 14.1 refuses a second."""

import io
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from rich.console import Console

from compress.system import console

BARS: list[Callable[[str], AbstractContextManager[Any]]] = [
    lambda _: console.phases(),
    lambda name: console.progress_bar(name, 3),
]


@pytest.mark.parametrize("outer", BARS)
@pytest.mark.parametrize("inner", BARS)
def test_a_bar_within_another_is_invisible(
    monkeypatch: pytest.MonkeyPatch, outer: Callable[..., Any], inner: Callable[..., Any]
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=shown, force_terminal=True, width=80))
    monkeypatch.setattr(console, "shows_log", lambda: True)
    with outer("unpacking") as first:
        with inner("decoding") as second:
            if callable(second):
                second("decoding", 1, 3)
        if callable(first):
            first("unpacking", 1, 3)
    assert "unpacking" in shown.getvalue()
    assert "decoding" not in shown.getvalue()
    with inner("decoding") as again:  # the first one is gone
        if callable(again):
            again("decoding", 1, 3)
    assert "decoding" in shown.getvalue()
