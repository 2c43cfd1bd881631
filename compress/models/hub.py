"""Files of the Hugging Face Hub, from its cache or downloaded.

In: a repository and the names of files. Out: the path of the first one that it has, in the Hub's own cache. What is
cached needs no network. Otherwise the Hub is asked once, and it is an error if it does not answer within seconds. A
download that breaks off continues the next time.
"""

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from compress.system import console, files
from compress.system.errors import InputError, MachineError, UsageError, first_line
from compress.system.hub_client import answer_s, explained, host, quiet, within

logger = logging.getLogger(__name__)

STALL_S = 30.0
"""How long a download may bring nothing. HF_HUB_DOWNLOAD_TIMEOUT sets a longer time."""
_PLAIN = re.compile(r"[\w-]+")
"""Of names that the Hub sends and that become names of files."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, and the words for an answer that did not come."""

    repo: str
    names: Sequence[str]
    revision: str | None
    setting: str

    def unavailable(self, reason: str) -> MachineError:
        return MachineError(f"the weights {self.repo} cannot be fetched ({reason})", self.elsewhere())

    def elsewhere(self) -> str:
        """How another machine fetches them, and which setting then names them."""
        from huggingface_hub import constants

        config, weights = constants.CONFIG_NAME, constants.SAFETENSORS_SINGLE_FILE
        name = weights if self.names[0] == config else self.names[0]
        in_a_folder = name in (weights, constants.PYTORCH_WEIGHTS_NAME)  # other names are found by their path alone
        command = f"hf download {self.repo} {name}{f' {config}' if in_a_folder else ''}"
        command += f"{f' --revision {self.revision}' if self.revision else ''} --local-dir FOLDER"
        target = "that folder" if in_a_folder else f"FOLDER/{name}"
        return f"On a machine with a network run `{command}`, copy the folder here, and set {self.setting} to {target}."


@dataclass(frozen=True)
class _Found:
    """A file as the Hub describes it. size: in bytes, None where the Hub does not say."""

    name: str
    url: str
    etag: str
    commit: str
    size: int | None


def hub_file(
    repo: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    setting: str = "student.pretrained or teacher.weights",
) -> Path:
    """The first of these files that the repository of the Hugging Face Hub has, from the cache or downloaded.

    A file in the cache is taken without any request. HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the variables
    of proxies count as they do for every program that uses the Hub.

    Args:
        repo: "user/name".
        names: of files in the repository, the preferred one first.
        revision: a branch, tag or commit. Default: main.
        setting: the key of the recipe that takes a folder of weights in place of the repository, for messages.

    Returns:
        The path of the file in the Hub's cache.

    Raises:
        UsageError: the Hub does not take such a name or revision.
        InputError: there is no such repository, revision or file, or it is private.
        MachineError: for one of these reasons:

            - The Hub cannot be reached, does not answer, or refuses for now.
            - HF_HUB_OFFLINE is set and the file is not in the cache.
            - The repository is gated, or the token is not valid.
            - The download broke off, or the cache cannot be written.
    """
    from huggingface_hub import constants

    wanted = _Wanted(repo, names, revision, setting)
    try:
        if path := _cached(wanted):
            return path
        if constants.HF_HUB_CACHE.startswith("~"):
            raise MachineError("this user has no home folder for the Hub's cache", "Set HF_HOME to a folder.")
        if constants.HF_HUB_OFFLINE:
            raise MachineError(
                f"the weights {repo} are not in the cache, and HF_HUB_OFFLINE does not let them be fetched",
                wanted.elsewhere(),
            )
        with quiet():
            return _download(_look_up(wanted), wanted)
    except OSError as error:
        path = Path(str(error.filename or constants.HF_HUB_CACHE))
        raise MachineError(
            files.cannot_write(path, error).message, "Free space there, or set HF_HOME to another folder."
        ) from error


def _cached(wanted: _Wanted) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for part in filter(None, (wanted.revision, *wanted.names)):
        if PurePosixPath(part).is_absolute() or ".." in PurePosixPath(part).parts:
            raise UsageError(f"{part!r} leaves the repository {wanted.repo}")
    try:
        paths = [try_to_load_from_cache(wanted.repo, name, revision=wanted.revision) for name in wanted.names]
    except HFValidationError as error:
        raise UsageError(
            f"{wanted.repo!r} is no name for a repository: {first_line(error)}", "For example: timm/resnet18.a1_in1k."
        ) from None
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _look_up(wanted: _Wanted) -> _Found:
    """Asks the Hub for each name, once, up to the first that it has."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    limit = answer_s()
    for name in wanted.names:
        try:
            url = hf_hub_url(wanted.repo, name, revision=wanted.revision)
            # Of the two limits only the whole one is to end it, since the other counts for each address of a host.
            about = within(limit, lambda url=url: get_hf_file_metadata(url, timeout=limit + 2))
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise explained(error, wanted.repo, wanted.revision, wanted.unavailable) from error
        etag, commit = about.etag or "", about.commit_hash or ""
        if not (_PLAIN.fullmatch(etag) and _PLAIN.fullmatch(commit)):
            raise wanted.unavailable(f"{host()} does not answer as the Hugging Face Hub does")
        return _Found(name, hf_hub_url(wanted.repo, name, revision=commit), etag, commit, about.size)
    raise InputError(
        f"the repository {wanted.repo} has no {' or '.join(wanted.names)}", "Does it hold a model of timm's format?"
    )


def _download(found: _Found, wanted: _Wanted) -> Path:
    """Brings the file into the cache, laid out as huggingface_hub does.

    hf_hub_download is not called: it tries for minutes where it does not get through, and throws away what arrived.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache, folder = Path(constants.HF_HUB_CACHE), repo_folder_name(repo_id=wanted.repo, repo_type="model")
    blob = cache / folder / "blobs" / found.etag
    pointer = cache / folder / "snapshots" / found.commit / found.name
    lock = cache / ".locks" / folder / f"{found.etag}.lock"  # that of huggingface_hub
    for parent in (blob.parent, pointer.parent, lock.parent):
        parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not blob.exists() or found.size not in (None, blob.stat().st_size):
            part = blob.with_name(f"{found.etag}.incomplete")
            _fetch(found, part, wanted)
            if _SHA256.fullmatch(found.etag) and files.sha256_file(part) != found.etag:
                part.unlink()
                raise MachineError(f"{wanted.repo}/{found.name} arrived damaged", "Run it again.")
            part.replace(blob)
        _point(pointer, blob)
        if (revision := wanted.revision or constants.DEFAULT_REVISION) != found.commit:
            reference = cache / folder / "refs" / revision
            reference.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(reference, found.commit.encode())
    return pointer


def _fetch(found: _Found, part: Path, wanted: _Wanted) -> None:
    """Downloads the rest of a part. Only errors of the disk are OSErrors."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    done = part.stat().st_size if part.exists() else 0
    if done and done == found.size:
        return

    def send() -> Any:
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # of compressed content no part is a part
        if done:
            headers["Range"] = f"bytes={done}-"
        client = get_session()
        stall = max(STALL_S, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        request = client.build_request("GET", found.url, headers=headers, timeout=stall)
        response = client.send(request, stream=True, follow_redirects=True)
        if not (done and response.status_code == 416):
            hf_raise_for_status(response)
        return response

    try:
        response = within(answer_s(), send)
    except Exception as error:
        raise explained(error, wanted.repo, wanted.revision, wanted.unavailable) from error
    if response.status_code == 416:  # the part is not the beginning of that file
        response.close()
        part.unlink()
        _fetch(found, part, wanted)
        return
    resumed = response.status_code == 206
    size = f", {found.size / 1e6:,.1f} MB" if found.size else ""
    rest = f", from {done / 1e6:,.1f} MB on" if resumed else ""
    logger.info(f"weights: downloading {wanted.repo}/{found.name}{size}{rest}")
    try:
        with part.open("ab" if resumed else "wb") as file, console.progress_bar(found.name, found.size) as bar:
            for chunk in _chunks(response, part, found, wanted):
                file.write(chunk)
                bar.show(file.tell())
            file.flush()
            os.fsync(file.fileno())
    finally:
        response.close()
    if found.size not in (None, part.stat().st_size):
        raise _broke_off("the connection was closed", part, found, wanted)


def _chunks(response: Any, part: Path, found: _Found, wanted: _Wanted) -> Iterator[bytes]:
    """What arrives, as it arrives, so that it is kept where no more comes."""
    try:
        yield from response.iter_bytes()
    except Exception as error:  # which HTTP library it is depends on huggingface_hub's version
        raise _broke_off(first_line(error), part, found, wanted) from error


def _broke_off(reason: str, part: Path, found: _Found, wanted: _Wanted) -> MachineError:
    of = f" of {found.size:,}" if found.size else ""
    return MachineError(
        f"the download of {wanted.repo}/{found.name} broke off at {part.stat().st_size:,}{of} bytes ({reason})",
        "Run it again to go on.",
    )


def _point(pointer: Path, blob: Path) -> None:
    """Makes the file's name in the snapshot: a link to the blob, or a copy where the file system has no links."""
    temporary = pointer.with_name(f".{pointer.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        shutil.copyfile(blob, temporary)
    temporary.replace(pointer)
