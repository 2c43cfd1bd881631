"""What the fault tests share: the command as a process that can be signalled, faults from outside, bytes of folders."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY, write_folder_data

INJECTED = Path(__file__).parent / "injected"
Process = subprocess.Popen[str]
Start = Callable[..., Process]


def faulty(fault: str) -> dict[str, str]:
    """The environment in which the command meets a fault; see injected/sitecustomize.py."""
    return {"FAULT": fault, "PYTHONPATH": os.pathsep.join([str(INJECTED), os.environ.get("PYTHONPATH", "")])}


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file's bytes, but for those by which a process says that it works there."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", ".holder"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def weights(home: Path) -> bytes:
    """The student's weights of the one run below home."""
    (path,) = home.glob("runs/*/student/model.safetensors")
    return path.read_bytes()


def leftovers(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.name.endswith(".tmp") or path.name == ".holder"]


def until(process: Process, text: str) -> list[str]:
    """Reads the process's lines up to the one that holds the text."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} never came:\n{''.join(lines)}")


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `compress ARGS`; what still runs at the test's end is killed."""
    processes: list[Process] = []

    def run(*arguments: object, cwd: Path, options: dict[str, Any] | None = None, **env: str) -> Process:
        cwd.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "compress", *map(str, arguments)],
            **{"cwd": cwd, "text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **(options or {})},
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
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
