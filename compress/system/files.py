"""Files that are complete or absent.

In: a path and its content. Out: a file that was written atomically. The module also has hashes, memory-mapped arrays
and the place of the cache.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compress.system.errors import MachineError
from compress.system.paths import user_path
from compress.system.platform import map_copy_on_write, sync_folder


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder. After the block it is synced and renamed to `path`.

    If the block fails, the temporary file is removed and `path` stays as it was. Only the last folder of the path is
    made. A parent that is gone is an error.

    Raises:
        MachineError: the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise cannot_write(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows syncs only what is open for writing
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file atomically. Raises MachineError, with the size, where it cannot be written."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except MachineError as error:
        raise MachineError(f"{error.message} ({len(content):,} bytes needed)", error.hint) from error


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically, with an indent of two. Raises MachineError where it cannot be written."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def remove_leftovers(folder: Path, pattern: str = ".*.tmp") -> None:
    """Removes temporary files of processes that were killed. The caller must hold the folder's lock.

    Args:
        pattern: of the names, at any depth.
    """
    for path in list(folder.rglob(pattern)):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def entries(folder: Path) -> list[Path]:
    """What lies in a folder, by name. Empty where there is none, or none that can be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def link_folder(source: Path, target: Path) -> None:
    """Copies a folder.

    The copy shares its files with the source where the file system can. That is safe, because no file is written in
    place.

    Raises:
        MachineError: the target cannot be written.
    """

    def link(one: str, other: str) -> str:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)
        return other

    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{target.name}.", suffix=".tmp", dir=target.parent, ignore_cleanup_errors=True
        ) as scratch:
            shutil.copytree(source, Path(scratch) / "copy", copy_function=link)
            shutil.rmtree(target, ignore_errors=True)
            (Path(scratch) / "copy").rename(target)
    except OSError as error:
        raise cannot_write(target, error) from error


def cannot_write(path: Path, error: OSError) -> MachineError:
    """The error for a path that cannot be written."""
    return MachineError(
        f"cannot write {path}: {error.strerror or error}", "Free space there, or choose another folder."
    )


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped copy-on-write: the array may be written to, and the file does not change.

    np.load has the same mode, but it asks Linux to reserve memory for the whole array. Linux refuses that for a file
    that is larger than the memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no complete .npy file, or holds objects.
    """
    with path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):
            raise ValueError(f"{path} is a .npy file of version {version}")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.hasobject or not shape:
            raise ValueError(f"{path} holds objects, or no array")
        mapped = map_copy_on_write(file)
        try:
            return np.ndarray(shape, dtype, buffer=mapped, offset=file.tell(), order="F" if fortran_order else "C")
        except TypeError as error:
            raise ValueError(f"{path} is cut short") from error


def cache_folder() -> Path:
    """The folder of caches: $COMPRESS_CACHE, else compress/ in the user's cache folder (XDG).

    Raises:
        MachineError: the user has no home folder.
    """
    if own := os.environ.get("COMPRESS_CACHE"):
        return user_path(own)
    if users := os.environ.get("XDG_CACHE_HOME"):
        return user_path(users) / "compress"
    try:
        return Path.home() / ".cache" / "compress"
    except RuntimeError:
        raise MachineError("this user has no home folder for the cache", "Set $COMPRESS_CACHE to a folder.") from None
