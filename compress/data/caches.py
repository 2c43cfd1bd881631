"""The caches of decoded pictures, the Hub's data sets and teachers' logits: where they are, and what can go.

In: the folder of caches. Out: a row for each, or the paths that were removed. A cache is made anew when it is needed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from compress.data.decode import Square
from compress.system import files
from compress.system.errors import MachineError

META = "meta.json"
_KINDS = ("data", "hub", "teacher-logits")
_DAY_S = 86_400
_IN_THE_MAKING = re.compile(r"(.+)\.[^.]+\.tmp$")


@dataclass(frozen=True)
class Cache:
    """A folder of the cache.

    Attributes:
        source: the folder of the data set; empty for one of the Hub, and for a teacher's logits.
        unused_days: since it was last read.
    """

    path: Path
    source: str
    megabytes: float
    unused_days: float

    @property
    def orphaned(self) -> bool:
        """Whether its data set is gone."""
        return bool(self.source) and not os.path.isdir(self.source)


def cache_place(name: str, folder: Path, square: Square, chosen: Sequence[str | None] = ()) -> Path:
    """The cache of a data set's pictures as such squares.

    Args:
        name: of the data set.
        folder: that holds it.
        chosen: what was chosen in that folder.
    """
    where = "\0".join(map(str, [folder.resolve(), *chosen]))
    place = hashlib.sha256(where.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return files.cache_folder() / "data" / f"{name}-{square.key}-{place}"


def may_only_read(cache: Path) -> bool:
    """Whether the cache is another user's, or on a disk that cannot be written."""
    lock = f"{cache}.lock"
    return cache.exists() and not (os.access(cache.parent, os.W_OK) and os.access(lock, os.W_OK))


def mark_used(record: Path) -> None:
    """Notes in the cache's JSON file, or in its folder, that it was read now, where this user may write it."""
    with contextlib.suppress(OSError):
        os.utime(record)


def list_caches() -> list[Cache]:
    """All caches, the largest first."""
    found = []
    for kind in _KINDS:
        for path in (files.cache_folder() / kind).glob("*/"):
            with contextlib.suppress(FileNotFoundError):  # another process removes it, or has finished it
                used = max(entry.stat().st_mtime for entry in (path, *path.glob("*.json")))
                unused = max(0.0, (time.time() - used) / _DAY_S)
                found.append(Cache(path, _source(path), round(_size(path) / 1e6, 1), round(unused, 1)))
    return sorted(found, key=lambda cache: -cache.megabytes)


def prune_caches(*, unused_days: float, remove: bool) -> list[Cache]:
    """What can go. Only `remove` removes it. A cache that a process writes is left alone.

    Args:
        unused_days: a cache that was not read for as long can go. One whose data set is gone can go at any time.

    Raises:
        MachineError: a cache cannot be removed.
    """
    chosen = [cache for cache in list_caches() if cache.orphaned or cache.unused_days >= unused_days]
    return [cache for cache in chosen if not remove or _remove(cache.path)]


def _remove(path: Path) -> bool:
    """False where a process writes it. A cache in the making, NAME.*.tmp, is written under the lock of NAME."""
    making = _IN_THE_MAKING.match(path.name)
    lock = path.with_name(f"{making[1] if making else path.name}.lock")
    try:
        with FileLock(lock).acquire(timeout=0):
            shutil.rmtree(path)
        if not making:
            lock.unlink(missing_ok=True)
    except (Timeout, FileNotFoundError):
        return False
    except OSError as error:
        raise MachineError(f"cannot remove {path}: {error.strerror}") from error
    return True


def _source(path: Path) -> str:
    try:
        return str(json.loads((path / META).read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError):
        return ""


def _size(folder: Path) -> int:
    return sum(os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder) for name in names)
