"""The real `compress sweep`: finished runs are skipped, stopped and failed ones go on, and the table is written."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from export.report import Sweep
from tests.helpers.command import Command, Start, assert_fails, metrics, snapshot, until

pytestmark = pytest.mark.slow
ARMS = ("--method", "ce", "--method", "ka+dtd")


def runs(output: str) -> dict[str, dict[str, Any]]:
    return {run["name"]: run for run in json.loads(output)["runs"]}


def hashes(output: str) -> dict[str, str]:
    return {name: run["student_sha256"] for name, run in runs(output).items()}


@pytest.fixture(scope="module")
def swept(command: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Where a sweep of two methods and two seeds ran, and what it printed."""
    home = tmp_path_factory.mktemp("swept")
    result = command("sweep", tiny_recipe, *ARMS, "--seed", 0, "--seed", 1, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert "in lockstep: tiny-ce-s0, tiny-ka-ps+dtd-flsw-s0" in result.stderr
    return home, result.stdout


def test_its_students_are_those_of_distill(command: Command, tiny_recipe: Path, swept: tuple[Path, str]) -> None:
    home, output = swept
    for method, arm in (("ce", "ce"), ("ka+dtd", "ka-ps+dtd-flsw")):
        arguments = ("--method", method, "--set", "train.seed=1", "--out", f"alone-{method}", "--json")
        result = command("distill", tiny_recipe, *arguments, cwd=home)
        assert json.loads(result.stdout)["student_sha256"] == hashes(output)[f"tiny-{arm}-s1"]
    assert len(list(home.glob("runs/teachers/*/model"))) == 1


def test_a_second_call_skips_what_is_finished(command: Command, tiny_recipe: Path, swept: tuple[Path, str]) -> None:
    home, output = swept
    before = {name: content for name, content in snapshot(home / "runs").items() if "-sweep." not in name}
    result = command("sweep", tiny_recipe, *ARMS, "--seed", 0, "--seed", 1, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert runs(result.stdout) == runs(output)
    assert "student 1/2" not in result.stderr
    assert "in lockstep" not in result.stderr
    assert result.stderr.count("finished before: tiny-") == 4
    assert {name: content for name, content in snapshot(home / "runs").items() if "-sweep." not in name} == before


def test_more_seeds_run_only_the_new_ones(command: Command, tiny_recipe: Path, swept: tuple[Path, str]) -> None:
    home, output = swept
    result = command("sweep", tiny_recipe, "--method", "ce", "--seed", 0, "--seed", 2, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert hashes(result.stdout)["tiny-ce-s0"] == hashes(output)["tiny-ce-s0"]
    assert "tiny-ce-s2" in runs(result.stdout)
    assert result.stderr.count("student 1/2") == 1


def test_the_table_is_written_beside_the_runs_and_json_is_its_content(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    arguments = ("sweep", tiny_recipe, *ARMS, "--seed", 0, "--seed", 1)
    result = command(*arguments, "--baseline", "ka-ps+dtd-flsw", "--out", "there", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    sweep = Sweep.model_validate_json((tmp_path / "there" / "tiny-sweep.json").read_text())
    assert Sweep.model_validate_json(result.stdout) == sweep
    assert hashes(result.stdout) == hashes(swept[1])
    assert sweep.baseline == "ka-ps+dtd-flsw"
    for run in sweep.runs:
        manifest = json.loads((tmp_path / "there" / run.name / "manifest.json").read_text())
        assert (run.student_top1, run.teacher_top1) == (manifest["student_top1"], manifest["teacher_top1"])
    again = command(*arguments, "--out", "there", cwd=tmp_path)
    assert again.stdout == ""
    assert again.stderr.strip().splitlines()[-1] == "the table: there/tiny-sweep.html, there/tiny-sweep.md"
    assert "| ce | 2 |" in (tmp_path / "there" / "tiny-sweep.md").read_text()


def test_a_finished_run_is_not_extended_to_be_compared(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(swept[0] / "runs", tmp_path / "runs")
    before = (tmp_path / "runs" / "tiny-ce-s0" / "manifest.json").read_bytes()
    for longer in ("train.epochs=3", "train.quantize=int8"):
        result = command("sweep", tiny_recipe, *ARMS, "--set", longer, cwd=tmp_path)
        assert_fails(result, 2, "tiny-ce-s0", longer.split("=")[0], "another folder")
    assert (tmp_path / "runs" / "tiny-ce-s0" / "manifest.json").read_bytes() == before


def test_another_recipe_for_some_of_the_runs_is_refused_before_any_is_trained(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    shutil.copytree(swept[0] / "runs", tmp_path / "runs")
    before = snapshot(tmp_path / "runs")
    result = command("sweep", tiny_recipe, *ARMS, "--seed", 5, "--seed", 0, "--set", "train.lr=0.07", cwd=tmp_path)
    assert_fails(result, 2, "tiny-ce-s0", "train.lr", "another folder")
    assert snapshot(tmp_path / "runs") == before


def test_what_runs_further_down_learned_from_is_not_pruned(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    assert command("sweep", tiny_recipe, "--method", "kd", "--out", "runs/there", cwd=tmp_path).returncode == 0
    (teacher,) = (tmp_path / "runs" / "teachers").glob("[0-9a-f]*")
    assert command("runs", "prune", "--yes", cwd=tmp_path).returncode == 0
    assert (teacher / "model" / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "runs" / "there")
    assert command("runs", "prune", "--yes", cwd=tmp_path).returncode == 0
    assert not teacher.exists()


@pytest.mark.faults
def test_sigterm_in_the_middle_is_143_and_the_same_command_ends_at_the_same_bits(
    command: Command, start: Start, long_recipe: Path, tmp_path: Path
) -> None:
    arguments = ("sweep", long_recipe, *ARMS, "--set", "train.epochs=10", "--json")
    (tmp_path / "whole").mkdir()
    whole = command(*arguments, cwd=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    process = start(*arguments, cwd=tmp_path / "parts")
    until(process, "ce-s0: student 3/10")
    time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.strip().splitlines()[-1] == "error: interrupted. Give the same command again."
    assert not list(tmp_path.glob("parts/runs/*-sweep.*"))
    for name in hashes(whole.stdout):
        manifest = json.loads((tmp_path / "parts" / "runs" / name / "manifest.json").read_text())
        assert manifest["status"] == "running"
    result = command(*arguments, cwd=tmp_path / "parts")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("going on from epoch") == 2
    assert hashes(result.stdout) == hashes(whole.stdout)
    for name in hashes(whole.stdout):
        lines = [line for line in metrics(tmp_path / "parts" / "runs" / name) if line["phase"] == "student"]
        assert [line["epoch"] for line in lines] == list(range(10))


def test_an_arm_that_diverges_is_listed_and_retried_and_the_others_finish(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    beta = "supervision.dtd.beta=40,1e38"
    arguments = ("sweep", tiny_recipe, "--method", "ka+dtd", "--set", beta, "--json")
    for _ in range(2):
        result = command(*arguments, cwd=tmp_path)
        assert_fails(result, 5, "1 of 2 runs failed", "1e_38-s0", "diverged", "The same command tries them again")
        fine, failed = runs(result.stdout).values()
        assert fine["status"] == "finished"
        assert (failed["status"], failed["student_top1"]) == ("failed", None)
        assert "student training diverged at epoch 1, step 1" in failed["error"]
        for name in ("tiny-sweep.html", "tiny-sweep.md"):
            assert "diverged at epoch 1" in (tmp_path / "runs" / name).read_text()
        assert "warning: tiny-ka-ps+dtd-flsw-supervision.dtd.beta=1e_38-s0 failed" in result.stderr


def test_a_run_that_failed_for_a_reason_outside_goes_on_once_that_is_gone(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path
) -> None:
    blocked = tmp_path / "runs" / "tiny-ce-s0"
    blocked.mkdir(parents=True)
    (blocked / "something").write_text("in the way")
    arguments = ("sweep", tiny_recipe, *ARMS, "--json")
    result = command(*arguments, cwd=tmp_path)
    assert_fails(result, 4, "1 of 2 runs failed", "tiny-ce-s0", "not empty")
    (blocked / "something").unlink()
    result = command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = hashes(swept[1])
    assert hashes(result.stdout) == {name: expected[name] for name in ("tiny-ce-s0", "tiny-ka-ps+dtd-flsw-s0")}


@pytest.mark.parametrize("file", ["manifest.json", "recipe.yaml"])
def test_a_damaged_run_fails_alone(
    command: Command, tiny_recipe: Path, swept: tuple[Path, str], tmp_path: Path, file: str
) -> None:
    shutil.copytree(swept[0] / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "tiny-ce-s0" / file).write_text("{")
    result = command("sweep", tiny_recipe, *ARMS, "--seed", 0, "--seed", 3, "--json", cwd=tmp_path)
    assert result.returncode in (2, 3), result.stderr
    assert "1 of 4 runs failed; tiny-ce-s0: " in result.stderr
    statuses = {name: run["status"] for name, run in runs(result.stdout).items()}
    assert statuses.pop("tiny-ce-s0") == "failed"
    assert set(statuses.values()) == {"finished"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train.epoch=1,2"], ["train.epoch", "epochs"]),
        (["--method", "kd", "--method", "kd"], ["tiny-kd-s0", "twice"]),
        (["--set", "train.lr"], ["KEY=VALUE,VALUE"]),
        (["--method", "kd", "--baseline", "ce"], ["--baseline", "kd"]),
        (["--seed", "x"], ["--seed"]),
    ],
)
def test_bad_usage_is_exit_2_before_anything_is_made(
    command: Command, tiny_recipe: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    assert_fails(command("sweep", tiny_recipe, *arguments, cwd=tmp_path), 2, *words)
    assert not list(tmp_path.iterdir())


def test_data_that_is_not_there_fails_every_run_with_its_exit_code(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    result = command("sweep", tiny_recipe, *ARMS, "--set", "data.root=/nowhere", "--out", "new/place", cwd=tmp_path)
    assert_fails(result, 3, "2 of 2 runs failed", "/nowhere")
    assert "/nowhere" in (tmp_path / "new" / "place" / "tiny-sweep.md").read_text()
