"""Modules that a caller handed over go all the way: export, benchmark, report and push."""

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from torch import nn

from compress import distill, load_recipe, load_student
from compress.runs.data import data_of_student
from compress.system.errors import InputError, UsageError
from export import benchmark_run, export_run, push_run, report_runs
from export.runtimes import normalise
from export.sources import load_teacher
from tests.helpers.command import Command, assert_fails

pytestmark = pytest.mark.slow


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_a_handed_student_and_teacher_are_exported_measured_and_reported(here: Path, tiny_recipe: Path) -> None:
    run = distill(load_recipe(tiny_recipe, method="kd"), teacher=Net(), student=Net(), out="out")
    with pytest.raises(InputError, match="was not made by timm"):
        export_run(run)
    record = export_run(run, model=Net(), bundle="folder")
    assert record.files["student.onnx"].agreement == 1
    session = onnxruntime.InferenceSession(run.export / "student.onnx")
    images = torch.rand(2, *session.get_inputs()[0].shape[1:])
    with torch.inference_mode():
        expected = load_student(run, model=Net())(images).numpy()
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-4)
    with pytest.raises(UsageError, match="Give teacher=True"):
        export_run(run, model=Net(), teacher_model=Net())
    with pytest.raises(InputError, match=r"teacher of .* handed over \(Net\).*teacher_model="):
        export_run(run, model=Net(), teacher=True)
    export_run(run, model=Net(), teacher=True, teacher_model=Net())
    session = onnxruntime.InferenceSession(run.export / "teacher.onnx")
    with torch.inference_mode():
        expected = load_teacher(run, Net())(images).numpy()
    np.testing.assert_allclose(session.run(None, {"input": images.numpy()})[0], expected, atol=1e-4)
    measured = benchmark_run(run, student=Net(), teacher=Net(), min_seconds=0, min_runs=8, batches=[1], threads=[1])
    assert {entry.name for entry in measured.candidates} >= {"teacher.torch", "student.torch", "student.onnx"}
    assert {entry.name for entry in measured.candidates} >= {"teacher.onnx"}
    assert "student.onnx" in report_runs(run)[1].read_text()


def test_a_handed_student_is_pushed_with_a_card_whose_code_opens_it(
    here: Path, command: Command, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = distill(load_recipe(tiny_recipe, method="kd"), teacher=Net(), student=Net(), out="out")
    with pytest.raises(InputError, match=r"handed over \(Net\).*export\.push_run\(run, repo, model="):
        push_run(run, "me/own", dry_run=True)
    assert_fails(command("push", run.path, "me/own", "--dry-run", cwd=here), 3, "export.push_run")
    with pytest.raises(InputError, match="does not fit the module"):
        push_run(run, "me/own", dry_run=True, model=nn.Linear(2, 3))
    assert not run.hub.exists()

    export_run(run, model=Net())
    outcome = push_run("out", "me/own", dry_run=True, model=Net())
    assert outcome["files"] == ["README.md", "config.json", "model.safetensors", "onnx/student.onnx", "recipe.yaml"]
    card = ModelCard.load(run.hub / "README.md")
    assert (card.data.library_name, card.data.base_model) == ("pytorch", None)
    assert "timm" not in card.data.tags
    assert "# Net, 3 classes of folder" in card.text
    assert "which is not in this repository" in card.text
    assert "hf-hub:" not in card.text
    assert "ONNX Runtime needs no class: `onnx/student.onnx`." in card.text

    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: run.path / "hub" / name)
    opened: dict[str, Any] = {"Net": Net}
    exec(code, opened)  # as a reader of the card would
    images = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(opened["model"](images), load_student(run, model=Net())(images))
    assert not opened["model"].training
    assert opened["config"]["label_names"] == ["dark", "grey", "light"]
    data = data_of_student(run)
    path = sorted((Path(run.recipe.data.root or "") / "val" / "dark").iterdir())[0]
    expected = normalise(data.eval_images[:1], data.mean, data.std)[0]
    torch.testing.assert_close(opened["transform"](Image.open(path)), torch.from_numpy(expected), atol=1e-5, rtol=0)
