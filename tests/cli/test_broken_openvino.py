"""An OpenVINO that is installed and broken: whoever did not ask for it goes on without it, and says why."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.command import Command, assert_fails

REASON = "OpenVINO is installed, but cannot be imported (ImportError: libopenvino.so.2640: no such file)"
PICK = ("pick", "--image-size", 32, "--threads", 1, "--model", "test_resnet", "--p90-ms", 1e6)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a command in which it is."""
    root = tmp_path_factory.mktemp("site")
    (root / "openvino").mkdir()
    (root / "openvino" / "__init__.py").write_text("raise ImportError('libopenvino.so.2640: no such file')\n")
    return {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}


def test_pick_goes_on_in_onnx_runtime(command: Command, broken: dict[str, str], tmp_path: Path) -> None:
    result = command(*PICK, "--json", cwd=tmp_path, **broken)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["runtimes"] == ["onnxruntime"]
    assert result.stderr.count(f"warning: {REASON}: it is left out") == 1


def test_asked_for_by_name_it_is_an_error_with_the_reason(
    command: Command, broken: dict[str, str], tmp_path: Path
) -> None:
    assert_fails(command(*PICK, "--runtime", "openvino", cwd=tmp_path, **broken), 4, REASON)


def test_init_writes_a_recipe_without_it(
    command: Command, broken: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    result = command("init", pictures, cwd=tmp_path, **broken)
    assert result.returncode == 0, result.stderr
    assert "formats: [onnx]" in result.stdout
    assert REASON in result.stderr


@pytest.mark.slow
@pytest.mark.faults  # repeats, but for the cause, a benchmark without the package
def test_a_benchmark_goes_on_without_it(
    command: Command, broken: dict[str, str], finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    assert command("export", run, cwd=tmp_path).returncode == 0
    result = command("benchmark", run, "--seconds", 0, "--batch", 1, "--threads", 1, "--json", cwd=tmp_path, **broken)
    assert result.returncode == 0, result.stderr
    assert {entry["runtime"] for entry in json.loads(result.stdout)["candidates"]} == {"torch", "ort"}
    assert result.stderr.count(REASON) == 1


def test_the_doctor_says_so(command: Command, broken: dict[str, str], tmp_path: Path) -> None:
    result = command("doctor", "--json", cwd=tmp_path, **broken)
    assert json.loads(result.stdout)["openvino"] == REASON.removeprefix("OpenVINO is ")
