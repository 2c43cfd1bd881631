"""`compress sweep --engine ray` on a real cluster of two nodes with a worker each; one of them dies."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.system.distribution import DISTRIBUTION
from tests.helpers.command import Command, Start, assert_fails, metrics
from tests.helpers.pictures import TINY, write_folder_data

pytestmark = pytest.mark.slow
EPOCHS = 8
GRID = ("--method", "kd", "--method", "ka+dtd", "--seed", "0", "--seed", "1")
NAMES = [f"recipe-{arm}-s{seed}" for arm in ("kd", "ka-ps+dtd-flsw") for seed in (0, 1)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'compress-timm[ray]'")
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}
    handler = signal.getsignal(signal.SIGTERM)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    signal.signal(signal.SIGTERM, handler)  # Ray puts one of its own in place
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of training for each group."""
    data = write_folder_data(tmp_path_factory.mktemp("data"), train=100)
    path = tmp_path_factory.mktemp("recipes") / "recipe.yaml"
    path.write_text(TINY.replace("DATA", str(data)).replace("train: {epochs: 2,", f"train: {{epochs: {EPOCHS},"))
    return path


@pytest.fixture(scope="module")
def expected(command: Command, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The students' hashes from the local engine, by run."""
    result = command("sweep", recipe, *GRID, "--json", cwd=tmp_path_factory.mktemp("local"))
    assert result.returncode == 0, result.stderr
    return hashes(result.stdout)


def hashes(output: str) -> dict[str, str]:
    return {row["name"]: row["student_sha256"] for row in json.loads(output)["runs"]}


def wait_for_epoch(home: Path, epoch: int) -> Path:
    """The first run of which that epoch is checkpointed, while a worker holds it."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for marker in home.glob(f"runs/recipe-*/checkpoints/epoch-{epoch:05d}*.json"):
            if (marker.parents[1] / ".holder").exists():
                return marker.parents[1]
        time.sleep(0.02)
    raise AssertionError(f"no run came to epoch {epoch}")


def worker_of(run: Path) -> int:
    match = re.fullmatch(r"process (\d+) on .*\n", (run / ".holder").read_text())
    assert match
    return int(match[1])


def before_epoch(run: Path, epoch: int) -> list[dict[str, Any]]:
    return [line for line in metrics(run) if line["phase"] == "student" and line["epoch"] < epoch]


@pytest.mark.faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_dies_in_the_middle_and_every_run_finishes_once(
    start: Start, recipe: Path, expected: dict[str, str], address: str, tmp_path: Path, number: signal.Signals
) -> None:
    process = start("sweep", recipe, *GRID, "--engine", "ray", "--json", cwd=tmp_path, RAY_ADDRESS=address)
    run = wait_for_epoch(tmp_path, 3)
    worker, done = worker_of(run), before_epoch(run, 3)
    os.kill(worker, number)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert hashes(output) == expected
    assert "going on from epoch" in errors
    for name in NAMES:
        lines = metrics(tmp_path / "runs" / name)
        assert [line["epoch"] for line in lines if line["phase"] == "student"] == list(range(EPOCHS))
        assert not (tmp_path / "runs" / name / ".holder").exists()
    # Their times show that the epochs which were saved have not been trained again.
    assert len(done) == 3
    assert before_epoch(run, 3) == done
    # A run that is trained anew says its epochs twice; the epoch in which the worker died may be, or its line be lost.
    said = re.findall(r"(?:\[0m)? (\S+-s\d): student (\d+)/", errors)
    assert {epoch for epoch in said if said.count(epoch) > 1} <= {(arm, "4") for arm, _ in said}
    assert len(set(said)) >= (EPOCHS - 1) * len(NAMES)
    workers = set(re.findall(r"pid=(\d+)[^)]*\)\S* (?:in lockstep|alone)", errors))
    assert str(worker) in workers
    assert len(workers) >= 2


@pytest.mark.faults
def test_sigterm_saves_the_runs_of_all_workers_and_the_same_command_goes_on(
    command: Command, start: Start, recipe: Path, expected: dict[str, str], address: str, tmp_path: Path
) -> None:
    arguments = ("sweep", recipe, *GRID, "--engine", "ray", "--json")
    process = start(*arguments, cwd=tmp_path, RAY_ADDRESS=address)
    wait_for_epoch(tmp_path, 2)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("error: interrupted")
    assert not list(tmp_path.glob("runs/*/.holder"))
    # Inside an epoch: saved on the signal, and not left at the last epoch's end.
    markers = [json.loads(path.read_text()) for path in tmp_path.glob("runs/recipe-*/checkpoints/*.json")]
    assert any(marker["step"] > 0 for marker in markers)
    result = command(*arguments, cwd=tmp_path, RAY_ADDRESS=address)
    assert result.returncode == 0, result.stderr
    assert hashes(result.stdout) == expected


def test_afterwards_signals_do_what_they_did_before(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray would leave a handler behind that ends the command with a code of its own."""
    from compress.sweeps.local import run_group
    from compress.sweeps.ray import run_on_ray

    monkeypatch.setenv("RAY_ADDRESS", address)
    before = signal.getsignal(signal.SIGTERM)
    assert list(run_on_ray([], run_group, recipe_name="none", device="cpu")) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_without_an_address_it_starts_a_cluster_here_and_failed_runs_are_exit_codes(
    command: Command, recipe: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'compress-timm[ray]'")
    grid = ("--method", "kd", "--set", "train.lr=0.05,1e6")
    result = command("sweep", recipe, *grid, "--engine", "ray", "--json", cwd=tmp_path, RAY_ADDRESS="")
    assert_fails(result, 5, "1 of 2 runs failed", "recipe-kd-train.lr=1000000.0-s0", "diverged")
    fine, failed = json.loads(result.stdout)["runs"]
    assert fine["student_sha256"] == expected["recipe-kd-s0"]
    assert failed["status"] == "failed"


@pytest.mark.parametrize("place", ["[::1]:1", "ray://127.0.0.1:1", "head-node"])
def test_an_address_without_a_cluster_is_an_environment_error(
    command: Command, tiny_recipe: Path, tmp_path: Path, place: str
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'compress-timm[ray]'")
    result = command("sweep", tiny_recipe, "--engine", "ray", cwd=tmp_path, RAY_ADDRESS=place)
    assert_fails(result, 4, f"RAY_ADDRESS={place}", "unset that")


def test_without_ray_it_is_exit_4_and_names_the_extra(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    """A module of that name that cannot be imported stands for a machine without Ray."""
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError('no ray')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    result = command("sweep", tiny_recipe, "--engine", "ray", cwd=tmp_path / "..", PYTHONPATH=path)
    assert_fails(result, 4, f"{DISTRIBUTION}[ray]")


def test_an_unknown_engine_is_exit_2(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    assert_fails(command("sweep", tiny_recipe, "--engine", "dask", cwd=tmp_path), 2, "dask", "local", "ray")
