"""Training that diverges, and a device whose memory is full: found before harm is done, and said with what helps."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.command import Command, assert_fails, faulty, snapshot

pytestmark = pytest.mark.faults


def stored_tensors(home: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in home.rglob("*.safetensors"):
        found |= {f"{path}:{name}": tensor for name, tensor in load_file(path).items()}
    return found


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_huge_learning_rate_ends_before_the_step_and_names_it(
    command: Command, tiny_recipe: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = ["train.lr=1e6", f"train.optimizer={optimizer}", "train.epochs=40", "train.ema=0.9"]
    result = command("distill", tiny_recipe, *(word for item in settings for word in ("--set", item)), cwd=tmp_path)
    assert_fails(result, 5, "diverged at epoch ", ", step ", " is ")
    assert any(f"{part} is" in result.stderr for part in ("ce", "loss", "kd", "the gradient"))
    assert all(bool(tensor.isfinite().all()) for tensor in stored_tensors(tmp_path).values())
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "failed"


def test_a_student_that_diverges_leaves_its_teacher_and_the_finished_run_alone(
    command: Command, tiny_recipe: Path, home: Path
) -> None:
    before = snapshot(home)
    result = command("distill", tiny_recipe, "--set", "supervision.dtd.beta=1e38", cwd=home)
    assert_fails(result, 5, "student training diverged at epoch 1, step 1: kd is")
    after = snapshot(home)
    assert {name: after[name] for name in before} == before
    assert not [
        name for name in after if name not in before and name.endswith(".safetensors") and "/teacher/" not in name
    ]


@pytest.mark.parametrize("whose", ["host", "device"])
def test_out_of_memory_names_a_batch_size_that_fits_and_the_folder_can_be_resumed(
    command: Command, tiny_recipe: Path, tmp_path: Path, whose: str
) -> None:
    """By fault injection here; tests/gpu has the same with a device's real limit."""
    out = tmp_path / "run"
    result = command("distill", tiny_recipe, "--out", out, cwd=tmp_path, **faulty(f"out-of-memory {whose}"))
    assert_fails(result, 4, "out of memory at epoch 1, step 1", "batches of 16", "train.batch_size=8 fits")
    again = ("distill", tiny_recipe, "--out", out, "--resume", "--json")
    result = command(*again, "--set", "train.batch_size=8", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "steps of 8 images" in result.stderr
    assert json.loads(result.stdout)["status"] == "finished"
