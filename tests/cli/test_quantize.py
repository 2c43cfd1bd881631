"""`train.quantize` with the real command: as a part of a run, added to a finished one, and interrupted."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from compress.training.metrics import read_metrics
from tests.helpers.command import Command, Start

SET = ("--set", "train.quantize=int8", "--set", "train.quantize_epochs=2")


@pytest.mark.slow
def test_a_finished_run_is_fine_tuned_for_int8_to_the_student_of_one_go(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    one_go = command("distill", tiny_recipe, *SET, "--out", "whole", "--json", cwd=tmp_path)
    assert one_go.returncode == 0, one_go.stderr
    whole = json.loads(one_go.stdout)
    phases = [line["phase"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert phases == ["teacher"] * 2 + ["student"] * 2 + ["quantize"] * 2

    first = json.loads(command("distill", tiny_recipe, "--out", "later", "--json", cwd=tmp_path).stdout)
    assert first["student_sha256"] != whole["student_sha256"]
    student = tmp_path / "later" / "student" / "model.safetensors"
    shutil.copyfile(student, tmp_path / "before.safetensors")
    assert first["teacher"]["sha256"] == whole["teacher"]["sha256"]  # the same teacher serves both
    added = command("distill", tiny_recipe, *SET, "--out", "later", "--resume", "--json", cwd=tmp_path)
    assert added.returncode == 0, added.stderr
    assert json.loads(added.stdout)["student_sha256"] == whole["student_sha256"]

    before, after = (load_file(path) for path in (tmp_path / "before.safetensors", student))
    kept = {name for name in before if before[name].equal(after[name])}
    assert {name for name in before if "running_" in name} <= kept
    assert not {name for name, value in before.items() if value.dim() > 1} & kept  # what is quantised moves

    settled = json.loads(added.stdout)["int8_input_ranges"]
    checkpoint = load_file(max((tmp_path / "later" / "checkpoints-quantize").glob("*.safetensors")))
    observed = ".input_quantizer."
    for layer, limits in settled.items():
        assert limits == [checkpoint[f"model.{layer}{observed}{end}_val"].item() for end in ("min", "max")]
    assert len(settled) == sum(name.endswith(".input_quantizer.scale") for name in checkpoint)

    exported = command("export", "later", "--precision", "fp32", "--precision", "int8", cwd=tmp_path)
    assert exported.returncode in (0, 6), exported.stderr  # such a small student may miss its gate
    assert (tmp_path / "later" / "export" / "student.onnx").exists()
    assert json.loads((tmp_path / "later" / "export" / "export.json").read_text())["int8_input_ranges"] == settled


@pytest.mark.slow
def test_a_signal_while_it_is_fine_tuned_costs_nothing(
    command: Command, start: Start, tiny_recipe: Path, tmp_path: Path
) -> None:
    longer = ("--set", "train.quantize=int8", "--set", "train.quantize_epochs=60")
    whole = json.loads(command("distill", tiny_recipe, *longer, "--out", "whole", "--json", cwd=tmp_path).stdout)
    process = start("distill", tiny_recipe, *longer, "--out", "cut", cwd=tmp_path)
    metrics = tmp_path / "cut" / "metrics.jsonl"
    while process.poll() is None and "quantize" not in (metrics.read_text() if metrics.exists() else ""):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    again = command("distill", tiny_recipe, *longer, "--out", "cut", "--resume", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["student_sha256"] == whole["student_sha256"]
