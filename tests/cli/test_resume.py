"""The real `compress distill --resume`: after a signal, after the end, for more epochs, and where it is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.command import Command, Start, assert_fails, until, weights
from tests.helpers.pictures import write_folder_data


@pytest.mark.slow
def test_sigterm_saves_and_resume_ends_at_the_same_weights(
    command: Command, start: Start, long_recipe: Path, undisturbed: bytes, tmp_path: Path
) -> None:
    """In the middle of the student's training; tests/faults has this of the teacher's, and of other signals."""
    process = start("distill", long_recipe, cwd=tmp_path)
    until(process, "student 3/6")
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143
    assert errors.strip().splitlines()[-1].startswith("error: ")
    resumed = command("distill", long_recipe, "--resume", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from epoch" in resumed.stderr
    assert weights(tmp_path) == undisturbed


def test_resuming_a_finished_run_prints_its_manifest_and_goes_on_only_for_more_epochs(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    out = home / "runs" / finished.name
    manifest = (out / "manifest.json").read_bytes()
    result = command("distill", tiny_recipe, "--out", out, "--resume", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout).items() >= json.loads(manifest).items()
    assert (out / "manifest.json").read_bytes() == manifest
    longer = command("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.epochs=3", "--json", cwd=home)
    assert longer.returncode == 0, longer.stderr
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["phase"] == "student"] == [0, 1, 2]
    assert_fails(
        command("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.lr=0.3", cwd=home), 2, "train.lr"
    )
    assert_fails(command("distill", tiny_recipe, "--out", out, cwd=home), 4, "not empty", "finished")


def test_a_finished_run_stays_finished_where_its_extension_fails(
    command: Command, tiny_recipe: Path, finished: Path, home: Path, tmp_path: Path
) -> None:
    out = home / "runs" / finished.name
    before = {name: (out / name).read_bytes() for name in ("manifest.json", "recipe.yaml")}
    other = write_folder_data(tmp_path / "other", train=25)
    longer = ("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.epochs=4")
    assert_fails(command(*longer, "--set", f"data.root={other}", cwd=home), 3, "other folder data")
    assert {name: (out / name).read_bytes() for name in before} == before
    shutil.rmtree(out / "checkpoints")
    assert_fails(command(*longer, cwd=home), 3, "checkpoints", "removed")
    assert {name: (out / name).read_bytes() for name in before} == before


def test_a_folder_that_ended_before_its_first_manifest_is_started_afresh(
    command: Command, tiny_recipe: Path, home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text("half")
    result = command("distill", tiny_recipe, "--out", out, "--resume", cwd=home)
    assert result.returncode == 0, result.stderr


def test_a_folder_in_use_names_its_holder(command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path) -> None:
    from compress.runs.locks import held

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    with held(out):
        result = command("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.epochs=9", cwd=tmp_path)
    assert_fails(result, 4, f"process {os.getpid()}")
