"""Which files an export makes: those of the command line, else those of the recipe."""

from pathlib import Path

import pytest

from compress import distill, load_recipe
from compress.runs.folder import Run
from compress.system.errors import UsageError
from export import export_run
from tests.helpers.command import Command, assert_fails

FP32, FP16, INT8 = "student.onnx", "student.fp16.onnx", "student.int8.onnx"


@pytest.fixture
def run(home: Path, tiny_recipe: Path) -> Run:
    """A finished run, whose recipe then came to want FP16 as well."""
    (path,) = (path.parent for path in home.glob("runs/*/manifest.json"))
    weights = Run(path).result.student_sha256
    resumed = distill(load_recipe(tiny_recipe, overrides=["export.precisions=[fp32, fp16]"]), out=path, resume=True)
    assert resumed.result.student_sha256 == weights
    return resumed


def files(run: Run) -> set[str]:
    return {path.name for path in run.export.glob("*.onnx")}


def test_the_recipe_says_what_a_plain_export_makes(run: Run, command: Command) -> None:
    assert command("export", run.path, cwd=run.path.parent).returncode == 0
    assert files(run) == {FP32, FP16}


def test_the_command_line_goes_before_the_recipe(run: Run, command: Command) -> None:
    assert command("export", run.path, "--precision", "fp32", cwd=run.path.parent).returncode == 0
    assert files(run) == {FP32}
    asked = ("--set", "export.precisions=[fp32, fp16]", "--set", "export.formats=[onnx]")
    again = command("export", run.path, *asked, cwd=run.path.parent)
    assert "student.onnx: unchanged" in again.stderr
    assert files(run) == {FP32, FP16}


def test_so_it_is_in_python(run: Run) -> None:
    assert set(export_run(run, precisions=["fp32"]).files) == {FP32}
    assert set(export_run(run).files) == {FP32, FP16}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("export.formats=[onxx]", "'onnx', 'trt' or 'openvino'"),
        ("export.precisions=[]", "at least 1 item"),
        ("export.precisions=[fp32, bf16]", "add openvino to export.formats"),
    ],
)
def test_names_that_mean_nothing_are_refused_with_the_recipe(tiny_recipe: Path, setting: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_recipe(tiny_recipe, overrides=[setting])


def test_bf16_on_the_command_line_needs_openvino(run: Run, command: Command) -> None:
    assert_fails(command("export", run.path, "--precision", "bf16", cwd=run.path.parent), 2, "--format openvino")
