"""Data sets of the Hugging Face Hub, by its library `datasets`.

In: a repository, or a folder of the same format. Out: a folder train/CLASS/... in the cache, written once, so that all
else sees ordinary files. It appears only when it is complete.
"""

import hashlib
import io
import json
import logging
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from compress.data.caches import mark_used
from compress.data.class_folders import EVALUATIONS, folder_name
from compress.data.fingerprint import of_files
from compress.data.source import Labelled, Source, class_name, source_of
from compress.data.tables import LABEL_NAMES, label_order
from compress.data.walk import LeftOut, files_below, is_picture, picture_endings, pictures_below
from compress.recipe import Data
from compress.system import console, files
from compress.system.errors import CompressError, InputError, MachineError, first_line, install_extra, listed
from compress.system.hub_client import answer_s, explained, host, quiet, within
from compress.system.paths import user_path

logger = logging.getLogger(__name__)

_FORMAT = 2  # raise it when the same data set would give other folders
_CONTENTS = "contents.json"
_IMAGE_NAMES = ("image", "img", "picture", "photo")
_LOCK = ".lock"  # of a run, teacher or assistant, which may be kept in the folder and are no part of the data


def unpacked(settings: Data) -> Path:
    """The folder that holds the pictures of data.repo, written now unless it is there.

    Raises:
        InputError: there is no such data set, or its splits or columns are not plain.
        MachineError: `datasets` is missing, the Hub cannot be reached, or the cache cannot be written.
    """
    assert settings.repo is not None
    local = _local(settings)
    readable = re.sub(r"[^\w.-]+", "--", str(local.resolve()) if local else settings.repo)[-60:]
    place = files.cache_folder() / "hub" / f"{readable}-{_key(settings)}"
    if _complete(place):
        mark_used(place / _CONTENTS)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            if not _complete(place):
                shutil.rmtree(place, ignore_errors=True)
                files.remove_leftovers(place.parent, f"{place.name}.*.tmp")
                with tempfile.TemporaryDirectory(
                    prefix=f"{place.name}.", suffix=".tmp", dir=place.parent, ignore_cleanup_errors=True
                ) as scratch:
                    _unpack(settings, Path(scratch), place)
                    os.chmod(scratch, 0o755)
                    os.rename(scratch, place)
    except OSError as error:
        raise MachineError(
            files.cannot_write(place, error).message, "Set $COMPRESS_CACHE to a folder with space."
        ) from error
    return place


def read_unpacked(folder: Path) -> Source:
    """The Source of a folder that `unpacked` made. Classes have the order of the data set."""
    contents = json.loads((folder / _CONTENTS).read_text(encoding="utf-8"))
    splits = {
        split: Labelled(
            {
                contents["classes"][name]: pictures_below(str(folder / split / name), LeftOut())
                for name in contents["classes"]
                if (folder / split / name).is_dir()
            }
        )
        for split in contents["pictures"]
    }
    names = [name for name in contents["classes"].values() if name in splits["train"].paths]
    return source_of(
        names,
        splits["train"],
        splits.get("val"),
        evaluation_name=contents["evaluation"],
        where=contents["evaluation"],
        warnings=contents["warnings"],
    )


def _key(settings: Data) -> str:
    """Depends on all that decides the content. Of a folder also its files, which may change."""
    local = _local(settings)
    parts = [_FORMAT, settings.repo if local is None else str(local.resolve()), settings.subset, settings.revision]
    parts += [settings.train, settings.evaluation, settings.image_column, settings.label_column]
    if local is not None:
        parts.append(of_files(files_below(str(local), unless=_LOCK), local))
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]


def _local(settings: Data) -> Path | None:
    """The folder that data.repo is. None where it is a repository of the Hub. Raises InputError where it is neither."""
    folder = user_path(str(settings.repo))
    if folder.is_dir():
        return folder
    if str(settings.repo).startswith(("~", "$", ".", os.sep)):
        raise InputError(f"data.repo: there is no folder {folder}", "Set it to USER/NAME of the Hub, or to a folder.")
    return None


def _complete(place: Path) -> bool:
    try:
        contents = json.loads((place / _CONTENTS).read_text(encoding="utf-8"))
        counts = contents["pictures"]
    except (OSError, ValueError, KeyError):
        return False
    return all(sum(len(names) for _, _, names in os.walk(place / split)) == count for split, count in counts.items())


def _unpack(settings: Data, scratch: Path, place: Path) -> None:
    splits = _loaded(settings)
    train = _train_split(splits, settings)
    evaluation = settings.evaluation or next((name for name in EVALUATIONS if name in splits), None)
    if settings.evaluation and settings.evaluation not in splits:
        raise _no_split(settings.evaluation, splits, settings)
    image, label = _columns(splits[train].features, settings)
    logger.info(f"unpacking {settings.repo} once, into {place}")
    counts, unlabelled, seen = {}, 0, {}
    for folder, split in (("train", train), ("val", evaluation)):
        if split is not None:
            written = _write(splits[split], image, label, scratch / folder, seen)
            counts[folder], missing = written
            unlabelled += missing
    known = (unicodedata.normalize("NFC", name) for name in getattr(splits[train].features[label], "names", []))
    order = {name: place for place, name in enumerate(known)}
    classes = dict(sorted(seen.items(), key=lambda item: (order.get(item[1], len(order)), label_order(item[1]))))
    warnings = [f"left out: {unlabelled:,} pictures of {settings.repo} without a label"] if unlabelled else []
    if not counts["train"] or (evaluation and not counts["val"]):
        empty = train if not counts["train"] else evaluation
        raise InputError(f"split {empty!r} of {settings.repo} has no labels", "Set data.train or data.evaluation.")
    contents = {"classes": classes, "pictures": counts, "evaluation": evaluation or "", "warnings": warnings}
    files.write_json(scratch / _CONTENTS, contents)


def _write(split: Any, image: str, label: str, folder: Path, seen: dict[str, str]) -> tuple[int, int]:
    """Writes the pictures of a split as they are. Returns how many, and how many have no label.

    Args:
        seen: name of the folder of each class -> its name. New classes are added.
    """
    from datasets import Image

    feature = split.features[label]
    rows = split.select_columns([image, label]).cast_column(image, Image(decode=False))
    count = unlabelled = 0
    with console.progress_bar(f"unpacking {folder.name}", len(rows)) as bar:
        for number, row in enumerate(rows):
            value = row[label]
            if value is None or (hasattr(feature, "int2str") and value < 0):
                unlabelled += 1
                continue
            name = class_name(str(feature.int2str(value) if hasattr(feature, "int2str") else value), str(split.split))
            safe = folder_name(name)
            seen.setdefault(safe, name)
            content, path = _content(row[image])
            (folder / safe).mkdir(parents=True, exist_ok=True)
            (folder / safe / f"{number:07d}{_ending(content, path)}").write_bytes(content)
            count += 1
            if number % 100 == 0:
                bar.show(number)
    return count, unlabelled


def _content(picture: dict[str, Any]) -> tuple[bytes, str]:
    if picture["bytes"] is not None:
        return picture["bytes"], picture["path"] or ""
    return Path(picture["path"]).read_bytes(), picture["path"]


def _ending(content: bytes, path: str) -> str:
    """The ending of the picture's file. What is no picture gets one too, so that whoever opens it names it."""
    from PIL import Image

    if is_picture(os.path.basename(path)):
        return os.path.splitext(path)[1].lower()
    try:
        with Image.open(io.BytesIO(content)) as picture:
            kind = picture.format or ""
    except Exception:  # noqa: BLE001  (Pillow raises many kinds)
        return ".jpg"
    own = f".{kind.lower()}"
    endings = sorted(ending for ending, name in Image.registered_extensions().items() if name == kind)
    return own if own in picture_endings() else (endings or [".jpg"])[0]


def _train_split(splits: dict[str, Any], settings: Data) -> str:
    name = settings.train or "train"
    if name not in splits:
        raise _no_split(name, splits, settings)
    return name


def _no_split(name: str, splits: dict[str, Any], settings: Data) -> InputError:
    return InputError(
        f"{settings.repo} has no split {name!r}, but {listed(sorted(splits))}", "Set data.train or data.evaluation."
    )


def _columns(features: Any, settings: Data) -> tuple[str, str]:
    """The names of the columns of pictures and labels."""
    from datasets import ClassLabel, Image

    pictures = [name for name, feature in features.items() if isinstance(feature, Image)]
    pictures = pictures or [name for name in _IMAGE_NAMES if name in features]
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    classes = classes or [name for name in LABEL_NAMES if name in features]
    found = []
    for key, given, candidates in (
        ("image_column", settings.image_column, pictures),
        ("label_column", settings.label_column, classes),
    ):
        if given is not None and given not in features:
            raise InputError(f"{settings.repo} has no column {given!r}", f"Its columns are {listed(list(features))}.")
        if given is None and len(candidates) != 1:
            raise InputError(
                f"the columns of {settings.repo} are not plain: it has {listed(list(features))}",
                f"Set data.{key} to the name of one.",
            )
        found.append(given or candidates[0])
    return found[0], found[1]


def _loaded(settings: Data) -> dict[str, Any]:
    """All splits by name."""
    try:
        import datasets
    except ImportError:
        raise MachineError("data.name: hub needs `datasets`", install_extra("hub-data")) from None
    from huggingface_hub import HfApi, constants

    folder, revision = _local(settings), settings.revision
    local, repo = folder is not None, str(folder or settings.repo)
    # `datasets` takes files of the same size and time of change for unchanged. A folder comes here only once changed.
    mode = "force_redownload" if local else None
    with _silent(datasets):
        if not local and not constants.HF_HUB_OFFLINE:
            try:
                within(answer_s(), lambda: HfApi().dataset_info(repo, revision=revision, timeout=answer_s() + 2))
            except Exception as error:
                raise explained(error, repo, revision, lambda reason: _unavailable(repo, reason)) from error
        try:
            splits = datasets.load_dataset(
                repo, name=settings.subset, revision=None if local else revision, download_mode=mode
            )
            return {str(name): split for name, split in splits.items()}
        except Exception as error:
            if not local and constants.HF_HUB_OFFLINE:
                raise _unavailable(repo, "it is not in the cache, and HF_HUB_OFFLINE is set") from error
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise _unavailable(repo, f"{host()}: {first_line(error)}") from error
            raise InputError(
                f"the data set {repo} cannot be read ({first_line(error)})", "data.subset names one of several."
            ) from error


def _unavailable(repo: str, reason: str) -> CompressError:
    return MachineError(
        f"the data set {repo} cannot be fetched ({reason})",
        f"On a machine with a network run `hf download {repo} --repo-type dataset --local-dir FOLDER`, copy the folder "
        "here, and set data.repo to it.",
    )


@contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """Within the block `datasets` and the Hub's client say nothing. A terminal sees the bars of downloads."""
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    bars = datasets.is_progress_bar_enabled()
    if not (console.shows_log() and console.console.is_terminal):
        datasets.disable_progress_bars()
    try:
        with quiet():
            yield
    finally:
        datasets.logging.set_verbosity(before)
        if bars:
            datasets.enable_progress_bars()
