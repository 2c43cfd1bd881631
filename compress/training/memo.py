"""What the runs of one process have in common, made once: data on the device, teachers for inference, batches."""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class Memo:
    """Keeps what was made, by key, for as long as it lives."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returned when that key was first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]
