"""Modules that a caller handed over go all the way: export, benchmark and report."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from compress import distill, load_recipe, load_student
from compress.system.errors import InputError
from export import benchmark_run, export_run, report_runs

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
    measured = benchmark_run(run, student=Net(), teacher=Net(), min_seconds=0, min_runs=8, batches=[1], threads=[1])
    assert {entry.name for entry in measured.candidates} >= {"teacher.torch", "student.torch", "student.onnx"}
    assert {entry.name for entry in measured.candidates} >= {"teacher.onnx"}
    assert "student.onnx" in report_runs(run)[1].read_text()
