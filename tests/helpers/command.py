"""The real command as a process: run, started, signalled, and how it ended."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.paths import ROOT

Command = Callable[..., subprocess.CompletedProcess[str]]
Process = subprocess.Popen[str]
Start = Callable[..., Process]
INJECTED = ROOT / "tests" / "faults" / "injected"


def run(*args: object, cwd: Path, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """`compress ARGS` to its end in a new Python process; cwd is where runs/ appears."""
    return subprocess.run(
        [sys.executable, "-m", "compress", *map(str, args)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def assert_fails(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The documented exit code, and a last line `error: ...` that holds the words, without a traceback."""
    assert result.returncode == code, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in last, last


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
