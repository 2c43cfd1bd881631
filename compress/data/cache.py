"""The cache of decoded pictures. It is checked against its source, and made again where that has changed.

In: the folder of a data set, and how its pictures become squares. Out: what a Dataset holds, with memory-mapped arrays.
Pictures to train on that are streamed stay in their files; the cache then holds the list of them.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from compress.data.bad_images import leave_out, raise_unless_skipped
from compress.data.caches import META, cache_place, mark_used, may_only_read
from compress.data.contents import content_digests
from compress.data.decode import Square, read_images, unreadable
from compress.data.fingerprint import of_files, of_source
from compress.data.picture_files import PictureFiles
from compress.data.source import Source, Split
from compress.data.split_checks import constant_classes, cut_away, overlap
from compress.data.statistics import channel_statistics
from compress.system import files
from compress.system.hashes import sha256_json

logger = logging.getLogger(__name__)

_FORMAT = 5  # raise it when the same source would give other content
_LABELS = ("train_labels", "eval_labels")
_RESIDENT = ("train_images", "eval_images", *_LABELS)
_STREAMED = ("train_paths", "train_ends", "train_contents", "eval_images", *_LABELS)
_COMPARED = 100_000  # pictures to train on, at most, whose files are compared with those to evaluate on
_SAMPLE = 1000  # pictures that give mean and standard deviation where the pictures to train on stay in their files


@dataclass(frozen=True)
class Wanted:
    """What the cache shall hold.

    Attributes:
        name: of the data set.
        folder: that holds it.
        square: how its pictures become squares. Those to train on are whole, since augmentation crops them.
        streamed: whether the pictures to train on stay in their files.
        variant: of the source, as part of the cache's name. `read` gives another source for each.
        read: the folder to a Source.
        packed: the files that hold all pictures. Empty where each picture is a file.
        chosen: what was chosen in the folder, as a table.
        skip: whether pictures that cannot be read are left out, if they are few.
        checked: whether `compress data check` looks at these pictures.
    """

    name: str
    folder: Path
    square: Square
    streamed: bool
    variant: str
    read: Callable[[Path], Source]
    packed: tuple[str, ...] = ()
    chosen: tuple[str | None, ...] = ()
    skip: bool = False
    checked: bool = True

    @property
    def arrays(self) -> tuple[str, ...]:
        return _STREAMED if self.streamed else _RESIDENT

    @property
    def place(self) -> Path:
        """The folder of the cache."""
        place = cache_place(self.name, self.folder, self.square, self.chosen)
        kind = f"-files{'-skip' if self.skip else ''}" if self.streamed else ""  # only skip looks at all of them
        return place.with_name(f"{place.name}{kind}{self.variant}")


def cached(wanted: Wanted) -> dict[str, Any]:
    """What a Dataset holds of its source, from the cache where the cache is current.

    Raises:
        InputError: the data set is damaged.
        MachineError: memory, open files, disk or network fail; or the cache cannot be written. $COMPRESS_CACHE chooses
            another folder for it.
    """
    cache, folder, name, size = wanted.place, wanted.folder, wanted.name, wanted.square.size
    # Packed files take long to read. Of other data the list of files is quick.
    source = None if wanted.packed else wanted.read(folder)
    found = of_source(source, folder) if source else of_files([str(folder / file) for file in wanted.packed], folder)
    current = f"{_FORMAT} {found}"
    if may_only_read(cache) and (content := _open_cache(cache, wanted, current)) is not None:
        return _as_asked(content, source, wanted)
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{cache}.lock"):
            if (content := _open_cache(cache, wanted, current)) is not None:
                return _as_asked(content, source, wanted)
            source = source or wanted.read(folder)
            count = 0 if wanted.streamed else len(source.train.labels)
            count += len(source.evaluation.labels) if source.evaluation else 0
            needed = count * size**2 * 3
            logger.info(f"decoding {count:,} images of {name} once, {needed / 1e6:,.0f} MB, into {cache}")
            files.remove_leftovers(cache.parent, f"{cache.name}.*.tmp")
            with tempfile.TemporaryDirectory(
                prefix=f"{cache.name}.", suffix=".tmp", dir=cache.parent, ignore_cleanup_errors=True
            ) as scratch:
                facts = {"fingerprint": current, "source": str(folder.resolve())}
                try:
                    meta = _build(source, wanted, Path(scratch), facts)
                except OSError as error:
                    raise OSError(error.errno, f"{error.strerror or error}; {needed:,} bytes needed") from error
                shutil.rmtree(cache, ignore_errors=True)
                os.chmod(scratch, 0o755)  # other users may read the cache
                os.rename(scratch, cache)
            return _as_asked(_content(cache, wanted, meta, mmap=True), source, wanted)
    except OSError as error:
        failure = files.cannot_write(cache, error)
        raise type(failure)(failure.message, "Set $COMPRESS_CACHE to a folder with space.") from error


def uncached(wanted: Wanted) -> dict[str, Any]:
    """The same for a data set that is small enough to be read anew each time."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        return _content(folder, wanted, _build(wanted.read(wanted.folder), wanted, folder, {}), mmap=False)


def _as_asked(content: dict[str, Any], source: Source | None, wanted: Wanted) -> dict[str, Any]:
    """The content with the warnings of its source. Raises InputError where what was left out must not be."""
    if content["left_out"]:
        assert source is not None  # packed files have no pictures of their own
        raise_unless_skipped(content["left_out"], _count(source), skip=wanted.skip, checked=wanted.checked)
    return {**content, "warnings": (*(source.warnings if source else ()), *content["warnings"])}


def _open_cache(cache: Path, wanted: Wanted, fingerprint: str) -> dict[str, Any] | None:
    """The cached content, or None where it is absent or damaged, or its source has changed."""
    try:
        meta = json.loads((cache / META).read_text(encoding="utf-8"))
        if meta["fingerprint"] != fingerprint:
            return None
        if any(files.sha256_file(cache / f"{name}.npy") != meta["arrays"][name] for name in wanted.arrays):
            return None
        mark_used(cache / META)
        return _content(cache, wanted, meta, mmap=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(source: Source, wanted: Wanted, folder: Path, facts: dict[str, str]) -> dict[str, Any]:
    """Writes the arrays and meta.json, with these facts, into `folder`. Returns what is in meta.json."""
    square = wanted.square
    empty = Split(np.zeros((0, square.size, square.size, 3), np.uint8), [])
    evaluation, whole = source.evaluation or empty, _uncut(square)
    left_out = _write_split(evaluation, square, folder, "eval")
    if wanted.streamed:
        train, unread = _readable(source.train, whole)
        left_out |= unread
        assert isinstance(train.images, list)
        seen = pictures = PictureFiles.of(train.images, wanted.folder, whole)
        np.save(folder / "train_labels.npy", np.asarray(train.labels, dtype=np.int64))
        np.save(folder / "train_paths.npy", pictures.paths)
        np.save(folder / "train_ends.npy", pictures.ends)
        np.save(folder / "train_contents.npy", content_digests(train.images))
        mean, std = channel_statistics(pictures[:: max(1, len(pictures) // _SAMPLE)])
    else:
        left_out |= _write_split(source.train, whole, folder, "train")
        seen = np.load(folder / "train_images.npy", mmap_mode="r", allow_pickle=False)
        mean, std = channel_statistics(seen)
    if left_out:
        raise_unless_skipped(left_out, _count(source), skip=wanted.skip, checked=wanted.checked)
    constant: list[str] = []
    if source.class_names:
        judged = np.load(folder / "eval_images.npy", mmap_mode="r", allow_pickle=False)
        own, others = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in _LABELS)
        constant = constant_classes(seen, own, source.class_names)
        constant += constant_classes(judged, others, source.class_names, "picture to evaluate on")
    compared = source.class_names and len(source.train.labels) <= _COMPARED
    warnings = [*(overlap(source) if compared else []), *constant, *cut_away(source, square.fit)]
    hashes = {name: files.sha256_file(folder / f"{name}.npy") for name in wanted.arrays}
    meta = {
        "class_names": source.class_names,
        "eval_split": source.evaluation_name,
        "mean": mean,
        "std": std,
        "sha256": sha256_json([hashes | _of_files(source, wanted, left_out), source.class_names]),
        "arrays": hashes,
        "warnings": warnings,
        "left_out": {_below(path, wanted.folder): problem for path, problem in left_out.items()},
        **facts,
    }
    files.write_json(folder / META, meta)
    return meta


def _of_files(source: Source, wanted: Wanted, left_out: Container[str]) -> dict[str, str]:
    """What stands for pixels that were decoded from files: their content, and how it becomes squares.

    Other versions of Pillow decode some files to slightly other pixels. They are the same data.
    """
    found = {}
    ways = {"eval_images": (source.evaluation, wanted.square), "train_images": (source.train, _uncut(wanted.square))}
    for name, (split, square) in ways.items():
        if name in wanted.arrays and split is not None and isinstance(split.images, list):
            digests = content_digests([path for path in split.images if path not in left_out], whole=True)
            found[name] = sha256_json([digests.tobytes().hex(), square.key])
    return found


def _uncut(square: Square) -> Square:
    """For pictures to train on, which are whole, since augmentation crops them."""
    return replace(square, crop_pct=1.0)


def _below(path: str, folder: Path) -> str:
    """The path below the folder, which may be spelt in another way when the cache is read. Others stay as they are, as
    in the fingerprint."""
    return path.removeprefix(f"{folder}/")


def _count(source: Source) -> int:
    """The pictures of both splits, of which the second may be the first as evaluation sees it."""
    other = source.evaluation if source.evaluation is not source.train else None
    return len(source.train.labels) + (len(other.labels) if other else 0)


def _write_split(split: Split, square: Square, folder: Path, name: str) -> dict[str, str]:
    """Writes pixels and labels. Returns why images could not be read, by path; they are left out."""
    out, labels = folder / f"{name}_images.npy", np.asarray(split.labels, dtype=np.int64)
    problems: dict[int, str] = {}
    if isinstance(split.images, list):
        if problems := read_images(split.images, square, out):
            labels = labels[leave_out(set(problems), out)]
    else:
        np.save(out, resized(split.images, square))
    np.save(folder / f"{name}_labels.npy", labels)
    return {str(split.images[row]): problem for row, problem in problems.items()}


def _readable(split: Split, square: Square) -> tuple[Split, dict[str, str]]:
    """The images that can be read, and why others cannot, by path."""
    images = split.images
    assert isinstance(images, list)
    problems = unreadable(images, square)
    rows = [row for row in range(len(images)) if row not in problems]
    left = Split([images[row] for row in rows], [split.labels[row] for row in rows])
    return left, {images[row]: problem for row, problem in problems.items()}


def _content(folder: Path, wanted: Wanted, meta: dict[str, Any], *, mmap: bool) -> dict[str, Any]:
    """The fields of a Dataset."""
    # Mapped arrays are copy-on-write: torch warns of read-only arrays, and nothing may write into the cache.
    paths = {name: folder / f"{name}.npy" for name in wanted.arrays if name != "train_contents"}
    arrays: dict[str, Any] = {
        name: files.map_array(path) if mmap else np.load(path, allow_pickle=False) for name, path in paths.items()
    }
    if wanted.streamed:
        square = _uncut(wanted.square)
        paths, ends = arrays.pop("train_paths"), arrays.pop("train_ends")
        arrays["train_images"] = PictureFiles(str(wanted.folder), paths, ends, square)
    return {
        "class_names": meta["class_names"],
        "eval_split": meta["eval_split"],
        "own_mean": tuple(meta["mean"]),
        "own_std": tuple(meta["std"]),
        "warnings": tuple(meta["warnings"]),
        "left_out": {os.path.join(wanted.folder, name): problem for name, problem in meta["left_out"].items()},
        "sha256": meta["sha256"],
        **arrays,
    }


def resized(images: NDArray[np.uint8], square: Square) -> NDArray[np.uint8]:
    """Pixels as squares, uint8 [N, size, size, 3]. images: uint8 [N, H, W, 3]."""
    if not len(images):
        return np.zeros((0, square.size, square.size, 3), np.uint8)
    if images.shape[1] == square.size and square.crop_pct == 1:
        return np.ascontiguousarray(images)
    return np.stack([square(Image.fromarray(image)) for image in images])
