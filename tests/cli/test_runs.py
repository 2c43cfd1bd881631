"""The real `compress runs`: what is listed, and what pruning takes away and keeps."""

import json
from pathlib import Path

from compress.system.files import sha256_file
from tests.helpers.command import Command


def test_runs_are_listed_and_pruned(command: Command, tiny_recipe: Path, finished: Path, home: Path) -> None:
    rows = json.loads(command("runs", "list", "--json", cwd=home).stdout)
    assert finished.name in {Path(row["run"]).name for row in rows}
    assert all(row["megabytes"] > 0 for row in rows)
    before = {path: sha256_file(path) for path in home.rglob("*.safetensors")}
    dry = command("runs", "prune", cwd=home)
    assert "would remove" in dry.stdout
    assert {path: sha256_file(path) for path in home.rglob("*.safetensors")} == before
    wet = command("runs", "prune", "--yes", cwd=home)
    assert wet.returncode == 0, wet.stderr
    assert not list(home.glob("runs/*/checkpoints"))
    assert (home / "runs" / finished.name / "student" / "model.safetensors").exists()
    assert list(home.glob("runs/teachers/*/model/model.safetensors"))  # a run still refers to it


def test_pruning_passes_over_what_is_not_a_teacher_and_keeps_what_was_finished(
    command: Command, finished: Path, home: Path
) -> None:
    (home / "runs" / "teachers" / "README.txt").write_text("mine")
    manifest = home / "runs" / finished.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"failed"'))
    result = command("runs", "prune", "--failed", "--yes", cwd=home)
    assert result.returncode == 0, result.stderr
    assert (home / "runs" / "teachers" / "README.txt").exists()
    assert (home / "runs" / finished.name / "student" / "model.safetensors").exists()
