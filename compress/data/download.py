"""Downloads a published data set.

In: its name and a root folder. Out: the data set's folder. A download continues where it broke off. The archive is
verified and unpacked safely, and the folder appears only when it is complete.
"""

import hashlib
import http.client
import os
import shutil
import ssl
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from compress.data.sources import LAYOUTS
from compress.system import console, files
from compress.system.errors import InputError

TIMEOUT_S = 30.0
MAX_MEMBERS = 1_000_000
MAX_UNPACKED_BYTES = 8_000_000_000
_CHUNK = 1 << 20
_OF_THE_NETWORK = (urllib.error.URLError, ssl.SSLError, TimeoutError, ConnectionError, http.client.HTTPException)


@dataclass(frozen=True)
class Archive:
    """A published archive.

    Attributes:
        md5: as its publisher gives it.
    """

    url: str
    file: str
    md5: str


ARCHIVES = {
    "cifar100": Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        "cifar-100-python.tar.gz",
        "eb9058c3a382ffc7106e4002c42a8d85",
    ),
    "cinic10": Archive(
        "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
        "CINIC-10.tar.gz",
        "6ee4d0c996905fe93221de577967a372",
    ),
    "tinyimagenet": Archive(
        "https://cs231n.stanford.edu/tiny-imagenet-200.zip",
        "tiny-imagenet-200.zip",
        "90528d7ca1a48142e341f4ef8d21d0de",
    ),
}


def prepare(name: str, root: Path, *, url: str | None = None) -> Path:
    """The data set's folder below root, downloaded unless it is there.

    An archive that is already in root is used.

    Args:
        name: one of ARCHIVES.
        root: the folder of data sets.
        url: a mirror of the archive.

    Raises:
        InputError: the download or the archive is incomplete, wrong or not safe. The folder does not appear, and
            another call continues the download.
        MachineError: root cannot be written.
    """
    layout, archive = LAYOUTS[name], ARCHIVES[name]
    folder = root / layout.folder
    if (folder / layout.marker).exists():
        return folder
    local = root / archive.file
    fetched = not local.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if fetched:
            local = download(url or archive.url, root / ".downloads" / archive.file)
        verify(local, archive.md5, remove=fetched)
        unpack(local, folder, marker=layout.marker)
        if fetched:
            shutil.rmtree(local.parent)
    except OSError as error:
        raise files.cannot_write(root, error) from error
    return folder


def download(url: str, path: Path) -> Path:
    """Downloads url to path. Continues from path.part where the server can.

    Raises:
        InputError: the download fails or breaks off. What has arrived is kept.
        OSError: the file cannot be written.
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "compress", **({"Range": f"bytes={done}-"} if done else {})}
    opener = urllib.request.build_opener(
        _NoDowngrade(), urllib.request.HTTPSHandler(context=ssl.create_default_context())
    )
    hint = "Run it again to go on, or put the archive there by hand."
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as response:
            resumed = response.status == 206
            length = response.headers.get("Content-Length")
            total = int(length) + (done if resumed else 0) if length else 0
            with part.open("ab" if resumed else "wb") as file, console.progress_bar(path.name, total or None) as bar:
                # read1 returns what has arrived, so that it is kept if the server stalls.
                while chunk := response.read1(_CHUNK):
                    file.write(chunk)
                    bar.show(file.tell())
        if total and part.stat().st_size != total:
            raise InputError(f"{url} broke off at {part.stat().st_size:,} of {total:,} bytes", hint)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # our part is not the beginning of the server's file
            part.unlink()
            return download(url, path)
        raise InputError(f"{url} answers {error.code} {error.reason}", hint) from error
    except (*_OF_THE_NETWORK, ValueError) as error:  # ValueError: the address is not valid
        raise InputError(f"cannot download {url} ({getattr(error, 'reason', None) or error})", hint) from error
    part.replace(path)
    return path


def verify(path: Path, md5: str, *, remove: bool) -> None:
    """Compares the MD5 of a file with the published one. remove: whether to delete a file that differs.

    Raises:
        InputError: they differ.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != md5:
        if remove:
            path.unlink()
        raise InputError(f"{path} has MD5 {found}, published is {md5}", "Fetch it again, or from another mirror.")


def unpack(archive: Path, folder: Path, *, marker: str) -> None:
    """Unpacks beside the archive, then renames to `folder`, so that it appears complete.

    Args:
        folder: where the content goes. A top folder of the same name in the archive is the content.
        marker: a path that the content must have.

    Raises:
        InputError: for one of these reasons:

            - The archive is damaged, or lacks the marker.
            - A member leaves the folder, or is a link or a device.
            - It has more than MAX_MEMBERS members, or unpacks to more than MAX_UNPACKED_BYTES.
    """
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}.", suffix=".tmp", dir=archive.parent, ignore_cleanup_errors=True
    ) as scratch:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as zipped:
                    _check(archive, [_zip_member(info) for info in zipped.infolist()])
                    zipped.extractall(scratch)
            else:
                with tarfile.open(archive) as tar:
                    members = tar.getmembers()
                    _check(archive, [(m.name, m.size, m.isfile() or m.isdir()) for m in members])
                    tar.extractall(scratch, members=members, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
            raise InputError(f"{archive} is damaged ({error})", "Fetch it again.") from error
        inner = Path(scratch) / folder.name
        content = inner if inner.is_dir() else Path(scratch)
        if not (content / marker).exists():
            raise InputError(f"{archive} does not hold {folder.name}/{marker}", "Is it another archive?")
        content.chmod(0o755)
        os.rename(content, folder)


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _zip_member(info: zipfile.ZipInfo) -> tuple[str, int, bool]:
    kind = stat.S_IFMT(info.external_attr >> 16)
    return info.filename, info.file_size, kind in (0, stat.S_IFREG, stat.S_IFDIR)


def _check(archive: Path, members: list[tuple[str, int, bool]]) -> None:
    """members: name, unpacked size in bytes, and whether it is a plain file or folder."""
    for name, _, plain in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts):
            raise InputError(f"{archive} holds {name!r}, which leaves its folder", "Do not use this archive.")
        if not plain:
            raise InputError(f"{archive} holds {name!r}, which is a link or device", "Do not use this archive.")
    size = sum(size for _, size, _ in members)
    if size > MAX_UNPACKED_BYTES or len(members) > MAX_MEMBERS:
        raise InputError(f"{archive} would unpack to {size:,} bytes in {len(members):,} files", "Is it the right one?")
