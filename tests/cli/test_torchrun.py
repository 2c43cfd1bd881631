"""The real command under torchrun: one run in two processes, and how all of them end when one does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress import load_student
from compress.data import load_data
from compress.data.splits import on_device
from compress.recipe import load_recipe
from compress.runs.arguments import torch_device
from compress.runs.folder import Run
from compress.training.evaluate import accuracy, logits_of
from tests.helpers.command import Command, assert_fails, leftovers, metrics, until, weights
from tests.helpers.torchrun import ALONE, COMPRESS, PATIENT, Torchrun, ended, workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def of_two(long_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student's weights of a run in two processes that nothing disturbs."""
    home = tmp_path_factory.mktemp("of-two")
    launch = [sys.executable, "-m", "torch.distributed.run", *ALONE, *COMPRESS, "distill", str(long_recipe)]
    subprocess.run(launch, cwd=home, check=True, capture_output=True)
    return weights(home)


def resume(torchrun: Torchrun, recipe: Path, home: Path, expected: bytes) -> None:
    launcher = torchrun("distill", recipe, "--resume", "--json", cwd=home)
    output, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    assert weights(home) == expected
    lines = metrics(home / json.loads(output)["run"])
    assert [line["epoch"] for line in lines] == [*range(6), *range(6)]
    assert not leftovers(home)


def test_a_run_in_two_processes_is_finished_measured_and_said_once(
    torchrun: Torchrun, command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    launcher = torchrun("distill", tiny_recipe, "--json", cwd=tmp_path)
    output, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    manifest = json.loads(output)
    assert manifest["status"] == "finished"
    assert manifest["processes"] == 2
    said = [line for line in errors.splitlines() if re.match(r"(data|decoding|teacher|student)\b", line)]
    assert len(said) == len(set(said)) >= 8
    run = Run(tmp_path / manifest["run"])
    assert [(line["phase"], line["epoch"]) for line in metrics(run.path)] == [
        *(("teacher", 0), ("teacher", 1), ("student", 0), ("student", 1))
    ]
    part = on_device(load_data(load_recipe(tiny_recipe).data), torch_device("cpu")).evaluation
    assert accuracy(logits_of(load_student(run), part), part.labels).top1 == manifest["student_top1"]
    again = command("distill", tiny_recipe, "--out", run.path, "--resume", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == {**manifest, "run": str(run.path)}


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_when_one_process_is_killed_the_other_says_so_and_both_resume_to_the_same_bits(
    torchrun: Torchrun, command: Command, long_recipe: Path, tmp_path: Path, of_two: bytes, rank: int
) -> None:
    launcher = torchrun("distill", long_recipe, cwd=tmp_path, group=PATIENT)
    until(launcher, "student 2/6")
    time.sleep(0.1)
    os.kill(workers(launcher)[rank], signal.SIGKILL)
    killed = time.monotonic()
    assert ended(launcher, 4, -signal.SIGKILL).startswith("error: another process of this run is gone")
    assert time.monotonic() - killed < 30
    assert_fails(command("distill", long_recipe, "--resume", cwd=tmp_path), 2, "was begun by 2 processes", "here are 1")
    resume(torchrun, long_recipe, tmp_path, of_two)


@pytest.mark.faults
def test_killed_while_the_teacher_is_trained_they_resume_to_the_same_bits(
    torchrun: Torchrun, command: Command, long_recipe: Path, tmp_path: Path, of_two: bytes
) -> None:
    launcher = torchrun("distill", long_recipe, cwd=tmp_path, group=PATIENT)
    until(launcher, "teacher 2/6")
    os.kill(workers(launcher)[1], signal.SIGKILL)
    ended(launcher, 4, -signal.SIGKILL)
    alone = command("distill", long_recipe, "--set", "train.epochs=1", "--out", "alone", "--json", cwd=tmp_path)
    assert "teacher 1/6" in alone.stderr, "it took what two processes had begun"
    resume(torchrun, long_recipe, tmp_path, of_two)


@pytest.mark.parametrize("phase", [pytest.param("teacher", marks=pytest.mark.faults), "student"])
def test_a_signal_to_one_process_saves_in_the_same_step_and_both_resume_to_the_same_bits(
    torchrun: Torchrun, long_recipe: Path, tmp_path: Path, of_two: bytes, phase: str
) -> None:
    launcher = torchrun("distill", long_recipe, cwd=tmp_path)
    until(launcher, f"{phase} 3/6")
    time.sleep(0.1)
    os.kill(workers(launcher)[1], signal.SIGTERM)
    assert ended(launcher, 143).startswith("error: interrupted")
    marker = max(tmp_path.glob(f"runs/{'teachers/' if phase == 'teacher' else ''}*/checkpoints/*.json"))
    assert json.loads(marker.read_text())["step"] > 0, "it was not in the middle of an epoch"
    resume(torchrun, long_recipe, tmp_path, of_two)


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        pytest.param(
            *(["train.batch_size=15"], 2, ["batches of 15 images", "2 processes", "train.batch_size=14"]),
            marks=pytest.mark.faults,
        ),
        pytest.param(
            *(["teacher.cache={views: 2}"], 2, ["teacher.cache is for one process"]), marks=pytest.mark.faults
        ),
        pytest.param(*(["train.lrr=1"], 2, ["lrr"]), marks=pytest.mark.faults),
        pytest.param(*(["data.root=/nowhere"], 3, ["/nowhere"]), marks=pytest.mark.faults),
        (["train.lr=1e6", "train.epochs=40"], 5, ["training diverged at epoch ", ", step "]),
    ],
    ids=["batch", "cache", "key", "data", "diverged"],
)
def test_an_error_ends_both_with_its_code_and_one_line(
    torchrun: Torchrun, tiny_recipe: Path, tmp_path: Path, settings: list[str], code: int, words: list[str]
) -> None:
    launcher = torchrun("distill", tiny_recipe, *(word for item in settings for word in ("--set", item)), cwd=tmp_path)
    line = ended(launcher, code)
    assert all(word in line for word in words), line


def test_an_error_of_one_process_alone_ends_both_with_its_code(
    torchrun: Torchrun, tiny_recipe: Path, tmp_path: Path
) -> None:
    """The leader's, which alone writes."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    line = ended(torchrun("distill", tiny_recipe, "--out", "full", cwd=tmp_path), 4)
    assert line.startswith("error: full is not empty")


def test_other_commands_are_refused_under_torchrun(torchrun: Torchrun, tiny_recipe: Path, tmp_path: Path) -> None:
    line = ended(torchrun("sweep", tiny_recipe, "--method", "kd", "--seed", "0", cwd=tmp_path), 2)
    assert line.startswith("error: compress sweep runs in one process, and torchrun started 2")


QUANTIZE = ("--set", "train.epochs=1", "--set", "train.quantize=int8", "--set", "train.quantize_epochs=6")


@pytest.mark.faults
def test_killed_while_it_is_fine_tuned_for_int8_they_resume_to_the_same_bits(
    torchrun: Torchrun, long_recipe: Path, tmp_path: Path
) -> None:
    whole = torchrun("distill", long_recipe, *QUANTIZE, "--out", "whole", "--json", cwd=tmp_path)
    output, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    launcher = torchrun("distill", long_recipe, *QUANTIZE, "--out", "cut", cwd=tmp_path, group=PATIENT)
    until(launcher, "quantize 3/6")
    time.sleep(0.1)
    os.kill(workers(launcher)[1], signal.SIGKILL)
    killed = time.monotonic()
    assert ended(launcher, 4, -signal.SIGKILL).startswith("error: another process of this run is gone")
    assert time.monotonic() - killed < 30
    again = torchrun("distill", long_recipe, *QUANTIZE, "--out", "cut", "--resume", "--json", cwd=tmp_path)
    resumed, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert re.search(r"quantize: .* going on from epoch [3-6]", errors)
    for key in ("student_sha256", "int8_input_ranges"):
        assert json.loads(resumed)[key] == json.loads(output)[key]
    phases = [(line["phase"], line["epoch"]) for line in metrics(tmp_path / "cut") if line["phase"] == "quantize"]
    assert phases == [("quantize", epoch) for epoch in range(6)]


def test_two_torchruns_that_meet_at_an_address_train_the_run_of_one(
    torchrun: Torchrun, long_recipe: Path, tmp_path: Path, of_two: bytes
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    group = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}")
    options = {"cwd": tmp_path, "group": (*group, "--local-addr=127.0.0.1")}
    launchers = [torchrun("distill", long_recipe, **options) for _ in range(2)]
    for launcher in launchers:
        _, errors = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, errors
    assert weights(tmp_path) == of_two
