"""One run on two machines, each with its own copy of the pictures and its own cache; only the run folder is shared."""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from subprocess import Popen

import pytest

from tests.helpers.command import Command, until, weights
from tests.helpers.machines import Machine, two_machines
from tests.helpers.pictures import TINY, write_images
from tests.helpers.torchrun import Torchrun, workers

pytestmark = pytest.mark.slow
PORT = 29411


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    """Each has a copy of the pictures. Under the common path this machine has them, too."""
    here = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(here / "train" / name, 60, seed=number, size=20, shade=80 * number)
        write_images(here / "val" / name, 8, seed=100 + number, size=20, shade=80 * number)
    copies = tmp_path_factory.mktemp("copies")
    for number in ("1", "2"):
        shutil.copytree(here, copies / number, copy_function=shutil.copy)  # with other times
    with two_machines(copies, here) as machines:
        yield machines


@pytest.fixture(scope="module")
def recipe(machines: list[Machine], tmp_path_factory: pytest.TempPathFactory) -> Path:
    (data,) = machines[0].own
    text = TINY.replace("epochs: 2,", "epochs: 6,").replace("epochs: 2}", "epochs: 6}").replace("DATA", str(data))
    path = tmp_path_factory.mktemp("recipes") / "shared.yaml"
    path.write_text(text.replace("augment: {crop: 1}", "augment: {crop: 0, flip: true, scale: 0.5}"))
    return path


def launch(machines: list[Machine], home: Path, *arguments: object) -> list[Popen[str]]:
    """torchrun on each machine, with the words of recipes/distributed.md."""
    home.mkdir(exist_ok=True)
    launchers = []
    for machine in machines:
        rendezvous = ("--rdzv-backend=c10d", f"--rdzv-endpoint={machines[0].address}:{PORT}")
        host = f"--rdzv-conf=is_host={'1' if machine is machines[0] else '0'}"
        group = ("--nnodes=2", "--nproc-per-node=1", *rendezvous, host, f"--local-addr={machine.address}")
        command = (sys.executable, "-m", "torch.distributed.run", *group, "-m", "compress", *arguments)
        cache = str(home / f"cache-{machine.name}")
        launchers.append(machine.start(*command, cwd=home, COMPRESS_CACHE=cache, OMP_NUM_THREADS="1"))
    return launchers


def finished(launchers: list[Popen[str]]) -> None:
    for launcher in launchers:
        _, errors = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, errors


@pytest.mark.faults
def test_a_run_on_two_machines_is_killed_on_one_and_ends_as_two_processes_do(
    machines: list[Machine], torchrun: Torchrun, recipe: Path, tmp_path: Path
) -> None:
    launcher = torchrun("distill", recipe, cwd=tmp_path / "one")
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    both = tmp_path / "both"
    launchers = launch(machines, both, "distill", recipe)
    until(launchers[0], "student 3/6")
    (pid,) = workers(launchers[1]).values()
    os.kill(pid, signal.SIGKILL)
    for launcher in launchers:
        launcher.communicate(timeout=300)
        assert launcher.returncode != 0
    finished(launch(machines, both, "distill", recipe, "--resume"))
    assert len(list(both.glob("cache-*"))) == 2
    assert weights(both) == weights(tmp_path / "one")


def test_a_sweep_by_ray_on_two_machines_has_the_students_of_one(
    machines: list[Machine], command: Command, recipe: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'compress-timm[ray]'")
    grid = ("--method", "kd", "--method", "ce", "--seed", "0", "--seed", "1", "--set", "train.epochs=2")
    local = command("sweep", recipe, *grid, "--json", cwd=tmp_path)
    assert local.returncode == 0, local.stderr
    head, other = machines
    address = f"{head.address}:{PORT + 1}"
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "of-this-test" * 3}
    ray = (Path(sys.executable).with_name("ray"), "start", "--num-cpus=1", "--disable-usage-stats", "--block")
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as sockets:  # their paths must be short
        own = (f"--temp-dir={sockets}", "--include-dashboard=false")
        for machine, how in ((head, ("--head", f"--port={PORT + 1}", *own)), (other, (f"--address={address}",))):
            started = machine.start(*ray, f"--node-ip-address={machine.address}", *how, cwd=tmp_path, **quiet)
            assert started.stdout
            said = list(takewhile(lambda line: "Ray runtime started" not in line, started.stdout))
            assert started.poll() is None, said
        home = tmp_path / "cluster"
        home.mkdir()
        sweep = (sys.executable, "-m", "compress", "sweep", recipe, *grid, "--engine", "ray", "--json")
        command_there = head.start(*sweep, cwd=home, RAY_ADDRESS=address, **quiet)
        output, errors = command_there.communicate(timeout=400)
        assert command_there.returncode == 0, errors
        where = set(re.findall(r"pid=\d+(, ip=\S+)?\)", errors))  # Ray names the machines other than its own
        assert where == {"", f", ip={other.address}"}, errors
    runs = [{row["name"]: row["student_sha256"] for row in json.loads(text)["runs"]} for text in (output, local.stdout)]
    assert runs[0] == runs[1]
