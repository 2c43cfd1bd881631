"""Checkpoints that are damaged, and a disk that is full when one is to be written."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.command import Command, Start, assert_fails, faulty, snapshot, weights
from tests.helpers.damage import empty, flip_a_bit, truncate

pytestmark = pytest.mark.faults
LONGER = ("--resume", "--set", "train.epochs=4")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    command: Command, tiny_recipe: Path, home: Path, damage: Callable[[Path], None], suffix: str
) -> None:
    (run,) = home.glob("runs/tiny-*")
    first, newest = sorted((run / "checkpoints").glob(f"*{suffix}"))
    assert "epoch-00001" in first.name
    damage(newest)
    result = command("distill", tiny_recipe, "--out", run, *LONGER, cwd=home)
    assert result.returncode == 0, result.stderr
    assert "warning: checkpoint" in result.stderr
    assert "is damaged" in result.stderr
    assert "going on from epoch 2, step 0" in result.stderr


def test_after_falling_back_the_weights_are_those_of_an_undisturbed_run(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    result = command("distill", tiny_recipe, cwd=tmp_path, **faulty("kill os.rename tiny-.*/student$ 1"))
    assert result.returncode == -signal.SIGKILL
    (run,) = tmp_path.glob("runs/tiny-*")
    truncate(max((run / "checkpoints").glob("epoch-00002*.safetensors")))
    result = command("distill", tiny_recipe, "--resume", cwd=tmp_path)
    assert "is damaged" in result.stderr
    assert weights(tmp_path) == (finished / "student" / "model.safetensors").read_bytes()


def test_none_valid_is_an_input_error_and_changes_nothing(command: Command, tiny_recipe: Path, home: Path) -> None:
    (run,) = home.glob("runs/tiny-*")
    for path in (run / "checkpoints").iterdir():
        empty(path)
    before = snapshot(run)
    assert_fails(command("distill", tiny_recipe, "--out", run, *LONGER, cwd=home), 3, "checkpoints", "none of the")
    assert snapshot(run) == before


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """5 MB. Skips where this process may not mount one."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no rights to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_disk_that_fills_during_a_save_names_the_path_and_the_bytes(
    command: Command, tiny_recipe: Path, home: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small"):
        place = tmp_path / "small" / "home"
        shutil.copytree(home, place)
        (run,) = place.glob("runs/tiny-*")
        before = snapshot(run)
        free = os.statvfs(place)
        (tmp_path / "small" / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - 100_000))
        result = command("distill", tiny_recipe, "--out", run, *LONGER, cwd=place)
        assert_fails(result, 4, "checkpoints/epoch-00003", "bytes needed", "No space left")
        after = snapshot(run)
        assert {name: after[name] for name in before if "metrics" not in name} == {
            name: content for name, content in before.items() if "metrics" not in name
        }
        (tmp_path / "small" / "filler").unlink()
        result = command("distill", tiny_recipe, "--out", run, *LONGER, cwd=place)
        assert result.returncode == 0, result.stderr


def test_a_file_that_may_not_grow_so_large_is_the_same_error(start: Start, tiny_recipe: Path, home: Path) -> None:
    """The variant that needs no rights: a limit on the size of a file, met in the middle of the checkpoint's write."""
    (run,) = home.glob("runs/tiny-*")
    before = snapshot(run)
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))}
    process = start("distill", tiny_recipe, "--out", run, *LONGER, cwd=home, options=limit)
    _, errors = process.communicate()
    assert process.returncode == 4, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("error: cannot write")
    assert "checkpoints/epoch-00003" in last
    assert "bytes needed" in last
    assert "Traceback" not in errors
    after = snapshot(run)
    assert {name for name in after if name not in before} == set()
    assert {name for name in before if after[name] != before[name]} <= {"metrics.jsonl"}


def test_a_cache_that_does_not_fit_is_an_error_before_anything_is_decoded(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "small"):
        override = ("--set", "data.image_size=224")
        result = command("distill", tiny_recipe, *override, cwd=tmp_path, COMPRESS_CACHE=str(tmp_path / "small"))
        assert_fails(result, 4, "small/data", "bytes needed", "COMPRESS_CACHE")
        decoded = [path for path in (tmp_path / "small/data").rglob("*") if path.is_file() and path.suffix != ".lock"]
        assert not decoded
