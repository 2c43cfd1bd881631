"""Shared fixtures: the real command in a subprocess, a small data set on disk, and a run that is finished."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)  # the models here are tiny: more threads only wait for each other

TINY = """\
data: {name: folder, root: DATA, image_size: 8, augment: {crop: 1}}
teacher: {model: resnet10t, args: {channels: [8, 8, 16, 16]}, epochs: 2}
student: {model: resnet10t, args: {channels: [8, 8, 8, 8]}}
supervision: {method: ka+dtd}
train: {epochs: 2, batch_size: 16, lr: 0.05}
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


def write_images(folder: Path, count: int, *, seed: int, size: int = 8, shade: int = 0) -> None:
    """Noise around a shade, so that classes of different shades can be told apart."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for number in range(count):
        noise = generator.integers(0, 80, (size, size, 3))
        Image.fromarray((noise + shade).astype(np.uint8)).save(folder / f"{number:03d}.png")


def write_folder_data(root: Path, *, train: int = 24, evaluation: int = 8) -> Path:
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(root / "train" / name, train, seed=number, shade=80 * number)
        write_images(root / "val" / name, evaluation, seed=100 + number, shade=80 * number)
    return root


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["COMPRESS_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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
    """Runs `compress ARGS` as a user would; cwd is where runs/ appears."""

    def run(*args: object, cwd: Path, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "compress", *map(str, args)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run


@pytest.fixture(scope="session")
def finished(command: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that the real command finished, below a folder that also holds runs/teachers."""
    home = tmp_path_factory.mktemp("home")
    result = command("distill", tiny_recipe, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home / json.loads(result.stdout)["run"]


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The documented exit code, and a last line `error: ...` that holds the words, without a traceback."""
    assert result.returncode == code, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in last, last
