"""The command under torchrun: started, its workers found, and how they ended."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Process = subprocess.Popen[str]
Torchrun = Callable[..., Process]
ALONE = ("--standalone", "--nproc-per-node=2")
PATIENT = (*ALONE, "--monitor-interval=3")  # the launcher leaves the others time to find out that one is gone
COMPRESS = ("-m", "compress")


@pytest.fixture
def torchrun() -> Iterator[Torchrun]:
    """Starts `compress ARGS` in two processes; what still runs at the test's end is killed."""
    launchers: list[Process] = []

    def run(
        *arguments: object, cwd: Path, group: tuple[str, ...] = ALONE, program: tuple[str, ...] = COMPRESS
    ) -> Process:
        cwd.mkdir(exist_ok=True)
        launchers.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *group, *program, *map(str, arguments)],
                cwd=cwd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return launchers[-1]

    yield run
    for launcher in launchers:
        for pid in workers(launcher).values():
            os.kill(pid, signal.SIGKILL)
        launcher.kill()
        launcher.communicate()


def workers(launcher: Process) -> dict[int, int]:
    """The process ids of the launcher's workers, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)", (folder / "status").read_text(), re.M)
            if parent and int(parent[1]) == launcher.pid:
                rank = re.search(r"(?:^|\0)RANK=(\d+)\0", (folder / "environ").read_text())
                found |= {int(rank[1]): int(folder.name)} if rank else {}
        except OSError:
            continue
    return found


def ended(launcher: Process, *codes: int) -> str:
    """Checks that each worker ended with one of the codes and that one line says why; returns that line."""
    _, errors = launcher.communicate(timeout=300)
    found = {int(code) for code in re.findall(r"exitcode\s*: (-?\d+)", errors)}
    assert found
    assert found <= set(codes), errors
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, errors
    assert "/compress/" not in errors, "a traceback of ours"
    return lines[0]
