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
from compress.runs.data import data_of_student, data_of_teacher, loaded_data
from compress.system.errors import InputError, UsageError
from compress.training.memo import Memo
from export import benchmark_run, export_run, push_run, report_runs
from export.runtimes import normalise
from export.sources import load_teacher
from tests.helpers.command import Command, assert_fails
from tests.helpers.published import publish

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


@pytest.mark.parametrize("fit", ["crop", pytest.param("pad", marks=pytest.mark.faults)])
def test_handed_modules_see_pictures_after_training_as_in_it(here: Path, tiny_recipe: Path, fit: str) -> None:
    """In the recipe of both the student is a published one, as whose weights say all pictures are decoded."""
    small = {"channels": [8, 8, 8, 8]}
    publish("resnet10t", here / "published", args=small, mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4), crop_pct=0.5)
    student = f"student={{model: resnet10t, pretrained: {here / 'published'}}}"
    recipe = load_recipe(tiny_recipe, method="kd", overrides=[student, f"data.fit={fit}", "train.epochs=1"])
    dataset, _ = loaded_data(recipe, torch.device("cpu"), Memo())
    assert (dataset.crop_pct, dataset.mean) == (0.5, pytest.approx((0.1, 0.2, 0.3)))
    run = distill(recipe, teacher=Net(), student=Net(), out="out")
    for seen, module, top1 in (
        (data_of_student(run), load_student(run, model=Net()), run.manifest.student_top1),
        (data_of_teacher(run), load_teacher(run, Net()), run.manifest.teacher_top1),
    ):
        np.testing.assert_array_equal(seen.eval_images, dataset.eval_images)
        images = torch.from_numpy(normalise(seen.eval_images, seen.mean, seen.std))
        with torch.inference_mode():
            answers = module(images).argmax(dim=1).numpy()
        assert (answers == seen.eval_labels).mean() == pytest.approx(top1)
    assert data_of_student(run).mean == pytest.approx(dataset.mean)
    assert data_of_teacher(run).mean == pytest.approx(dataset.own_mean)
    export_run(run, model=Net(), teacher=True, teacher_model=Net())
    benchmark_run(run, student=Net(), teacher=Net(), min_seconds=0, min_runs=8, batches=[1], threads=[1])
