"""The caches of decoded pictures: when they are renewed, who can use them, and what can go."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.data.dataset import load_data
from compress.recipe import Data
from tests.helpers.command import Command
from tests.helpers.pictures import write_folder_data, write_images


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    return write_folder_data(tmp_path / "data", train=4, evaluation=2)


def cache(root: Path) -> Path:
    """The cache of that data, read now."""
    load_data(Data(name="folder", root=str(root), image_size=8))
    (found,) = (root.parent / "cache" / "data").glob("*/")
    return found


def inode(root: Path) -> int:
    return cache(root).stat().st_ino


def runs_inside(root: Path) -> None:
    write_images(root / "runs" / "first", 3, seed=0)
    (root / "manifest.json").touch()


def dangling(root: Path) -> None:
    (root / "gone").symlink_to("nowhere")


def system_files(root: Path) -> None:
    (root / "train" / "grey" / ".DS_Store").touch()
    write_images(root / "train" / "grey" / "@eaDir", 1, seed=0)
    (root / "lost+found").mkdir(mode=0)


@pytest.mark.parametrize("change", [runs_inside, dangling, system_files])
def test_what_is_no_part_of_the_data_leaves_the_cache_as_it_is(root: Path, change: Callable[[Path], None]) -> None:
    before = inode(root)
    change(root)
    assert inode(root) == before


def swapped(root: Path) -> None:
    """Two pictures of one size change places, and all times of change are as before."""
    paths = [root / "train" / name / "same.ppm" for name in ("dark", "light")]
    contents = [path.read_bytes() for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        path.write_bytes(content)
        os.utime(path, (1, 1))


def renamed(root: Path) -> None:
    (root / "train" / "dark" / "000.png").rename(root / "train" / "grey" / "moved.png")


def removed_in_a_linked_folder(root: Path) -> None:
    (root.parent / "elsewhere" / "001.png").unlink()


def evaluation_only(root: Path) -> None:
    (root / "val" / "dark" / "000.png").unlink()


@pytest.mark.parametrize("change", [swapped, renamed, removed_in_a_linked_folder, evaluation_only])
def test_a_change_of_the_data_renews_the_cache(root: Path, change: Callable[[Path], None]) -> None:
    for name, value in (("dark", 0), ("light", 200)):
        path = root / "train" / name / "same.ppm"
        path.write_bytes(b"P6 8 8 255 " + bytes([value] * 192))
        os.utime(path, (1, 1))
    write_images(root.parent / "elsewhere", 2, seed=9)
    (root / "train" / "grey" / "more").symlink_to(root.parent / "elsewhere")
    before = json.loads((cache(root) / "meta.json").read_text())
    change(root)
    after = json.loads((cache(root) / "meta.json").read_text())
    assert after["sha256"] != before["sha256"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="root alone becomes another user")
def test_a_cache_of_another_user_is_used(root: Path) -> None:
    shared = Path("/tmp") / f"compress-{os.getpid()}"  # a folder of pytest is closed to other users
    try:
        shutil.copytree(root, shared / "data")
        code = (
            "import logging, os, sys\nlogging.basicConfig(level=logging.INFO, format='%(message)s')\n"
            "from compress.data import load_data\nfrom compress.data.walk import picture_endings\n"
            "from compress.recipe import Data\n"
            "picture_endings()\nos.setuid(int(sys.argv[1]))\n"  # Python itself may be closed to the other user
            f"print(len(load_data(Data(name='folder', root={str(shared / 'data')!r}, image_size=8)).train_labels))"
        )
        environment = {**os.environ, "COMPRESS_CACHE": str(shared / "cache")}

        def run(user: int) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-c", code, str(user)]
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        assert "decoding" in run(0).stderr
        other = run(65534)
        assert other.stdout.strip() == "12", other.stderr
        assert "decoding" not in other.stderr
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def test_caches_are_listed_and_only_those_that_are_old_or_orphaned_go(
    root: Path, command: Command, tmp_path: Path
) -> None:
    other = shutil.copytree(root, tmp_path / "other")
    kept = cache(root)
    load_data(Data(name="folder", root=str(other), image_size=8))
    (orphan,) = set((tmp_path / "cache" / "data").glob("*/")) - {kept}
    shutil.rmtree(other)

    def prune(*args: object) -> dict[str, bool]:
        rows = json.loads(
            command("data", "prune", "--json", *args, cwd=tmp_path, COMPRESS_CACHE=str(tmp_path / "cache")).stdout
        )
        assert all(row["megabytes"] >= 0 for row in rows)
        return {row["path"]: row["pruned"] for row in rows}

    assert prune() == {str(kept): False, str(orphan): True}
    assert orphan.exists()
    prune("--yes")
    assert kept.exists()
    assert not orphan.exists()
    os.utime(kept / "meta.json", (1, 1))
    os.utime(kept, (1, 1))
    assert prune() == {str(kept): True}
    cache(root)
    assert prune() == {str(kept): False}
