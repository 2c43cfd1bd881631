"""What the runs of one process share: data on the device, teachers for inference, and batches.

In: a key and a function. Out: what the function returned when the key was new.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Memo:
    """Keeps values by key, as long as the Memo itself lives."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of `key`. `make` is called only where the key is new."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
