"""Shared fixtures: the real command in a subprocess, a small data set on disk, and a run that is finished."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import command as commands
from tests.helpers.command import Command, Process, Start, weights
from tests.helpers.paths import UNPACK
from tests.helpers.pictures import TINY, write_folder_data
from tests.helpers.torchrun import torchrun
from tests.helpers.warm import warm_process

__all__ = ["torchrun"]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["COMPRESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("COMPRESS_RUNS", None)  # the developer's own runs are not continued


@pytest.fixture(scope="session")
def real_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with train/ and validation/ of real photos. Skips where they are absent."""
    if not UNPACK.exists():
        pytest.skip("the real photos are not beside the checkout")
    folder = tmp_path_factory.mktemp("real-photos")
    subprocess.run([sys.executable, UNPACK, folder, "photos"], check=True, capture_output=True)
    return folder / "photos"


@pytest.fixture(scope="session")
def folder_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def tiny_recipe(folder_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY.replace("DATA", str(folder_data)))
    return path


@pytest.fixture(scope="session")
def command() -> Command:
    """Runs `compress ARGS` to its end as a process; cwd is where runs/ appears.

    With variables of libraries it is a new Python, which sees them from its start; else a forked one.
    """
    read_when_needed = ("COMPRESS_", "RAY_ADDRESS")

    def run(*args: object, cwd: Path, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        if all(name.startswith(read_when_needed) for name in env):
            return warm_process().run(*args, cwd=cwd, timeout=timeout, **env)
        return commands.run(*args, cwd=cwd, timeout=timeout, **env)

    return run


@pytest.fixture(scope="session")
def finished(command: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that the real command finished, below a folder that also holds runs/teachers.

    Tests only read it. Those that change something, or add a run, ask for `home`, a copy.
    """
    home = tmp_path_factory.mktemp("home")
    result = command("distill", tiny_recipe, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home / json.loads(result.stdout)["run"]


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> Path:
    """A copy of all that the finished run left, to be worked on: `runs/` with the run and its teacher."""
    return Path(shutil.copytree(finished.parents[1], tmp_path / "home"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `compress ARGS`; what still runs at the test's end is killed."""
    processes: list[Process] = []

    def run(*arguments: object, cwd: Path, options: dict[str, Any] | None = None, **env: str) -> Process:
        cwd.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "compress", *map(str, arguments)],
            **{"cwd": cwd, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **(options or {})},
            env={**os.environ, **env},
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def long_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of training, half of it the teacher's."""
    data = write_folder_data(tmp_path_factory.mktemp("much"), train=100)
    path = tmp_path_factory.mktemp("recipes") / "long.yaml"
    six = TINY.replace("epochs: 2,", "epochs: 6,").replace("epochs: 2}", "epochs: 6}")
    path.write_text(six.replace("DATA", str(data)))
    return path


@pytest.fixture(scope="session")
def undisturbed(command: Command, long_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student's weights of a run of `long_recipe` that nothing disturbs."""
    home = tmp_path_factory.mktemp("undisturbed")
    result = command("distill", long_recipe, cwd=home)
    assert result.returncode == 0, result.stderr
    return weights(home)
