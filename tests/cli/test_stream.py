"""The real command with pictures that are decoded for every use: the same bits after a break, and in two processes."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.helpers.command import Command, Start, assert_fails, metrics, until, weights
from tests.helpers.pictures import TINY, write_images
from tests.helpers.torchrun import Torchrun, ended, workers

pytestmark = pytest.mark.slow
CROPS = "augment: {crop: 0, flip: true, scale: 0.5}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six epochs on 180 pictures of 20 to 40 pixels, each cropped to 8."""
    data = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(data / "train" / name, 60, seed=number, size=20 + 10 * number, shade=80 * number)
        write_images(data / "val" / name, 8, seed=100 + number, size=24, shade=80 * number)
    path = tmp_path_factory.mktemp("recipes") / "stream.yaml"
    text = TINY.replace("epochs: 2,", "epochs: 6,").replace("epochs: 2}", "epochs: 6}").replace("DATA", str(data))
    path.write_text(text.replace("augment: {crop: 1}", CROPS))
    return path


@pytest.fixture(scope="module")
def undisturbed(command: Command, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run went to its end that nothing disturbed."""
    home = tmp_path_factory.mktemp("undisturbed")
    result = command("distill", recipe, cwd=home)
    assert result.returncode == 0, result.stderr
    assert "decoded for each use" in result.stderr
    return home


def interrupted_step(home: Path, phase: str) -> int:
    marker = max(home.glob(f"runs/{'teachers/' if phase == 'teacher' else ''}*/checkpoints/*.json"))
    return int(json.loads(marker.read_text())["step"])


@pytest.mark.parametrize("phase", [pytest.param("teacher", marks=pytest.mark.faults), "student"])
def test_a_run_that_was_stopped_within_an_epoch_ends_at_the_same_weights(
    command: Command, start: Start, recipe: Path, undisturbed: Path, tmp_path: Path, phase: str
) -> None:
    process = start("distill", recipe, cwd=tmp_path)
    until(process, f"{phase} 3/6")
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    resumed = command("distill", recipe, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert weights(tmp_path) == weights(undisturbed)


def test_a_resumed_run_keeps_its_loader(command: Command, recipe: Path, undisturbed: Path) -> None:
    (run,) = undisturbed.glob("runs/stream-*")
    assert "loader: stream" in (run / "recipe.yaml").read_text()
    other = ("distill", recipe, "--out", run, "--resume", "--set", "data.loader=resident")
    assert_fails(command(*other, cwd=undisturbed), 2, "data.loader")


@pytest.mark.faults
def test_two_processes_resume_to_the_same_bits(
    torchrun: Torchrun, recipe: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = tmp_path / "whole"
    launcher = torchrun("distill", recipe, cwd=whole)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    broken = tmp_path / "broken"
    launcher = torchrun("distill", recipe, cwd=broken)
    until(launcher, "student 3/6")
    os.kill(workers(launcher)[1], signal.SIGTERM)
    ended(launcher, 143)
    launcher = torchrun("distill", recipe, "--resume", cwd=broken)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    assert weights(broken) == weights(whole)


def test_kept_logits_are_those_of_the_pictures_that_the_student_sees(
    command: Command, recipe: Path, tmp_path: Path
) -> None:
    """With as many views as epochs, kept logits change the student no more than their half precision does."""
    options = ("--set", "supervision.method=kd", "--set", "train.lr=0.001", "--json")
    results = []
    for cache in ("null", "{views: 6}"):
        result = command("distill", recipe, *options, "--set", f"teacher.cache={cache}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        results.append(metrics(tmp_path / json.loads(result.stdout)["run"]))
    losses = [[line["loss"] for line in lines if line["phase"] == "student"] for lines in results]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
