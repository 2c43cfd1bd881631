"""What torchrun says to each process of a run in its environment, and which of them says how the run ended.

Light to import: every command asks.
"""

import functools
import os
from datetime import timedelta
from typing import Any


def size() -> int:
    """How many processes torchrun started for this run; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def leads() -> bool:
    """Whether this process is the one that writes and speaks."""
    return size() == 1 or os.environ["RANK"] == "0"


@functools.cache
def store(part: str) -> Any:
    """A part of torchrun's key-value store, which outlives every process of the run."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(part, next(rendezvous("env://"))[0])


def last_words(code: int) -> tuple[int, bool]:
    """The exit code of a process that ends with an error, and whether it is the one of its run to say so.

    The first process with an error says it, and the others end with its code: all met the same one, or they only
    found that it had gone.
    """
    if size() == 1:
        return code, True
    try:
        ends = store("ends")
        if ends.add("errors", 1) == 1:
            ends.set("code", str(code))
            return code, True
        ends.wait(["code"], timedelta(seconds=5))
        return int(ends.get("code")), False
    except RuntimeError:  # torchrun itself is gone
        return code, True
