"""Downloads from a real server on this machine, and archives that are damaged or hostile."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.data import download
from compress.system.errors import InputError
from tests.helpers.archives import Members, Server, link, make_tar, make_zip


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.close()


GOOD: Members = [("cifar-100-python/train", os.urandom(5000)), ("cifar-100-python/meta", b"m")]


@pytest.fixture
def published(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    server.content = make_tar(GOOD)
    md5 = hashlib.md5(server.content).hexdigest()
    archive = download.Archive(server.url, "cifar-100-python.tar.gz", md5)
    monkeypatch.setitem(download.ARCHIVES, "cifar100", archive)
    return server


def test_a_data_set_is_fetched_verified_and_unpacked(published: Server, tmp_path: Path) -> None:
    folder = download.prepare("cifar100", tmp_path / "data")
    assert (folder / "train").read_bytes() == GOOD[0][1]
    assert [path.name for path in folder.parent.iterdir()] == ["cifar-100-python"]
    assert download.prepare("cifar100", tmp_path / "data") == folder
    assert len(published.ranges) == 1  # what is there is not fetched again


def test_an_archive_that_lies_there_is_used_without_the_network(published: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(published.content)
    download.prepare("cifar100", tmp_path)
    assert not published.ranges
    assert (tmp_path / "cifar-100-python.tar.gz").exists()


def test_a_download_that_broke_off_is_resumed(published: Server, tmp_path: Path) -> None:
    published.behaviour = "cut"
    with pytest.raises(InputError, match="broke off") as caught:
        download.prepare("cifar100", tmp_path)
    assert caught.value.code == 3
    assert not (tmp_path / "cifar-100-python").exists()
    published.behaviour = ""
    download.prepare("cifar100", tmp_path)
    assert published.ranges == [None, f"bytes={len(published.content) // 2}-"]


def test_a_server_that_stalls_is_given_up_and_resumed(
    published: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    published.behaviour = "stall"
    with pytest.raises(InputError, match="timed out"):
        download.prepare("cifar100", tmp_path)
    assert not (tmp_path / "cifar-100-python").exists()
    published.behaviour = ""
    download.prepare("cifar100", tmp_path)
    assert published.ranges == [None, f"bytes={len(published.content) // 2}-"]


@pytest.mark.parametrize("behaviour", ["missing", "altered"])
def test_a_wrong_answer_leaves_nothing_and_a_rerun_completes(published: Server, tmp_path: Path, behaviour: str) -> None:
    whole = published.content
    published.behaviour = behaviour
    if behaviour == "altered":
        published.content = whole[:-1] + b"x"
    with pytest.raises(InputError, match=r"404|MD5"):
        download.prepare("cifar100", tmp_path)
    assert not (tmp_path / "cifar-100-python").exists()
    published.content, published.behaviour = whole, ""
    download.prepare("cifar100", tmp_path)


def test_a_server_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot download"):
        download.download("http://127.0.0.1:1/archive", tmp_path / "x")


def test_a_redirect_from_https_to_http_is_refused() -> None:
    import urllib.error
    import urllib.request

    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(urllib.error.URLError, match="not https"):
        download._NoDowngrade().redirect_request(request, None, 302, "", {}, "http://example.org/a")


def huge(info: tarfile.TarInfo) -> None:
    info.size = 10**13


HOSTILE = {
    "tar parent": make_tar([*GOOD, ("../evil", b"x")]),
    "tar absolute": make_tar([*GOOD, ("/tmp/evil-from-an-archive", b"x")]),
    "tar symlink": make_tar([*GOOD, ("cifar-100-python/link", b"")], link(tarfile.SYMTYPE)),
    "tar hardlink": make_tar([*GOOD, ("cifar-100-python/link", b"")], link(tarfile.LNKTYPE)),
    "tar device": make_tar([*GOOD, ("cifar-100-python/dev", b"")], link(tarfile.CHRTYPE)),
    "zip parent": make_zip([*GOOD, ("../evil", b"x")]),
    "zip backslash": make_zip([*GOOD, ("..\\evil", b"x")]),
    "zip absolute": make_zip([*GOOD, ("/tmp/evil-from-an-archive", b"x")]),
    "zip symlink": make_zip([*GOOD, ("cifar-100-python/link", b"/etc/passwd")], mode=0o120777),
    "truncated tar": make_tar(GOOD)[:-2000],
    "truncated zip": make_zip(GOOD)[:-2000],
    "no archive": b"hello",
    "another archive": make_tar([("other/train", b"x")]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_damaged_archive_leaves_nothing(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "inner" / "archive"
    archive.parent.mkdir()
    archive.write_bytes(HOSTILE[name])
    with pytest.raises(InputError) as caught:
        download.unpack(archive, archive.parent / "cifar-100-python", marker="train")
    assert caught.value.code == 3
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "archive"]
    assert not Path("/tmp/evil-from-an-archive").exists()


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(make_zip([("cifar-100-python/train", bytes(3_000_000))]))
    monkeypatch.setattr(download, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(InputError, match="would unpack to 3,000,000 bytes"):
        download.unpack(archive, tmp_path / "cifar-100-python", marker="train")
    assert not (tmp_path / "cifar-100-python").exists()


def test_the_published_addresses_are_https() -> None:
    assert all(archive.url.startswith("https://") for archive in download.ARCHIVES.values())
