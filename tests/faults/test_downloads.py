"""Servers and archives that fail or mean harm: nothing lands outside the root, and a rerun completes."""

import hashlib
import os
import shutil
import ssl
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.archives import Members, Server, link, make_tar, make_zip
from tests.helpers.command import assert_fails, snapshot

PREPARE = """\
import sys
from compress.cli import main as cli
from compress.data import download
download.TIMEOUT_S, md5 = 0.5, sys.argv.pop(1)
download.ARCHIVES["cifar100"] = download.Archive(download.ARCHIVES["cifar100"].url, "cifar-100-python.tar.gz", md5)
cli.main()
"""
GOOD: Members = [("cifar-100-python/train", os.urandom(200_000)), ("cifar-100-python/meta", b"m")]


def zip_bomb() -> bytes:
    """9 GB of zeros, by its directory, in some bytes."""
    content = bytearray(make_zip([*GOOD, ("cifar-100-python/zeros", b"")]))
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = (4_294_967_000).to_bytes(4, "little")
    first = content.index(b"PK\x01\x02")
    content[first + 24 : first + 28] = (4_294_967_000).to_bytes(4, "little")
    return bytes(content)


HOSTILE = {
    "tar parent": make_tar([*GOOD, ("../evil", b"x")]),
    "tar absolute": make_tar([*GOOD, ("/tmp/evil-from-an-archive", b"x")]),
    "tar symlink": make_tar([*GOOD, ("cifar-100-python/link", b"")], link(tarfile.SYMTYPE)),
    "tar hardlink": make_tar([*GOOD, ("cifar-100-python/link", b"")], link(tarfile.LNKTYPE)),
    "zip parent": make_zip([*GOOD, ("../evil", b"x")]),
    "zip absolute": make_zip([*GOOD, ("/tmp/evil-from-an-archive", b"x")]),
    "zip symlink": make_zip([*GOOD, ("cifar-100-python/link", b"../../secret")], mode=0o120777),
    "zip bomb": zip_bomb(),
}


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    served.content = make_tar(GOOD)
    yield served
    served.close()


def prepare(url: str, content: bytes, root: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`compress data prepare cifar100`, for which the hash of `content` is the published one, and patience is short."""
    arguments = [hashlib.md5(content).hexdigest(), "data", "prepare", "cifar100", "--root", str(root), "--url", url]
    return subprocess.run(
        [sys.executable, "-c", PREPARE, *arguments], env={**os.environ, **env}, capture_output=True, text=True
    )


def is_whole(root: Path) -> bool:
    return snapshot(root) == dict(GOOD)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing(server: Server, tmp_path: Path, name: str) -> None:
    server.content = HOSTILE[name]
    root = tmp_path / "inner" / "root"
    result = prepare(f"http://127.0.0.1:{server.server_port}/", server.content, root)
    assert_fails(result, 3, "cifar-100-python.tar.gz")
    outside = [path for path in tmp_path.rglob("*") if root / ".downloads" not in (path, path.parent)]
    assert outside == [tmp_path / "inner", root]
    assert not Path("/tmp/evil-from-an-archive").exists()


@pytest.mark.parametrize(("behaviour", "words"), [("cut", "broke off"), ("stall", "timed out")])
def test_a_download_that_ends_halfway_leaves_nothing_and_goes_on(
    server: Server, tmp_path: Path, behaviour: str, words: str
) -> None:
    url = f"http://127.0.0.1:{server.server_port}/"
    server.behaviour = behaviour
    assert_fails(prepare(url, server.content, tmp_path), 3, words)
    assert not (tmp_path / "cifar-100-python").exists()
    server.behaviour = ""
    result = prepare(url, server.content, tmp_path)
    assert result.returncode == 0, result.stderr
    assert server.ranges == [None, f"bytes={len(server.content) // 2}-"]
    assert is_whole(tmp_path)


def test_without_ranges_it_starts_anew(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{server.server_port}/"
    server.behaviour = "cut"
    assert prepare(url, server.content, tmp_path).returncode == 3
    server.behaviour = "no ranges"
    assert prepare(url, server.content, tmp_path).returncode == 0
    assert is_whole(tmp_path)


def test_what_was_complete_but_not_yet_named_so_is_no_obstacle(server: Server, tmp_path: Path) -> None:
    part = tmp_path / ".downloads" / "cifar-100-python.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    result = prepare(f"http://127.0.0.1:{server.server_port}/", server.content, tmp_path)
    assert result.returncode == 0, result.stderr
    assert is_whole(tmp_path)


def test_a_wrong_checksum_leaves_nothing_and_a_rerun_completes(server: Server, tmp_path: Path) -> None:
    url, whole = f"http://127.0.0.1:{server.server_port}/", server.content
    server.content = whole[:-1] + b"x"
    assert_fails(prepare(url, whole, tmp_path), 3, "MD5")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    server.content = whole
    assert prepare(url, whole, tmp_path).returncode == 0
    assert is_whole(tmp_path)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_a_redirect_from_https_to_plain_http_is_refused(server: Server, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    secure = Server()
    secure.content = server.content
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    url, trusted = f"https://127.0.0.1:{secure.server_port}/", {"SSL_CERT_FILE": str(certificate)}
    root = tmp_path / "root"
    secure.behaviour = f"http://127.0.0.1:{server.server_port}/"
    assert_fails(prepare(url, server.content, root, **trusted), 3, "not https")
    assert not (root / "cifar-100-python").exists()
    assert not server.ranges, "it asked there"
    assert_fails(prepare(url, server.content, root), 3, "certificate")
    secure.behaviour = ""
    result = prepare(url, server.content, root, **trusted)
    assert result.returncode == 0, result.stderr
    assert is_whole(root)
    secure.close()
