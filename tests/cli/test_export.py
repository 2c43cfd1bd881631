"""`compress export` and `compress verify` as commands, on a run that the real command finished."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from compress.system.distribution import DISTRIBUTION
from compress.system.files import sha256_file
from tests.helpers.command import Command, assert_fails


@pytest.fixture(scope="module")
def exported(command: Command, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with everything exported that needs no TensorRT."""
    run = tmp_path_factory.mktemp("exported") / finished.name
    shutil.copytree(finished, run)
    result = command(
        *("export", run, "--precision", "fp32", "--precision", "fp16", "--precision", "int8"),
        *("--preprocess", "--teacher", "--bundle", "--json"),
        cwd=run.parent,
    )
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert {name: entry["sha256"] for name, entry in record["files"].items()} == {
        name: sha256_file(run / "export" / name) for name in record["files"]
    }
    return run


@pytest.mark.slow
def test_the_files_have_the_names_of_the_design(exported: Path) -> None:
    names = {path.name for path in (exported / "export").iterdir()}
    assert names >= {"student.onnx", "student.fp16.onnx", "student.int8.onnx", "student.pixels.onnx", "teacher.onnx"}
    assert names >= {"export.json", "bundle"}
    assert not [name for name in names if name.startswith(".") or name.endswith(".tmp")]


@pytest.mark.slow
def test_plain_onnxruntime_agrees_with_predict(command: Command, exported: Path, folder_data: Path) -> None:
    path = folder_data / "val" / "light" / "002.png"
    session = onnxruntime.InferenceSession(str(exported / "export" / "student.pixels.onnx"))
    (probabilities,) = session.run(None, {"pixels": np.asarray(Image.open(path))[None]})
    for model in (exported, exported / "export" / "student.onnx", exported / "export" / "student.pixels.onnx"):
        (row,) = json.loads(command("predict", model, path, "--json", cwd=exported).stdout)
        found = {entry["class"]: entry["probability"] for entry in row["classes"]}
        for name, probability in zip(("dark", "grey", "light"), np.asarray(probabilities)[0], strict=True):
            assert found[name] == pytest.approx(float(probability), abs=1e-4)


@pytest.mark.slow
def test_the_metadata_says_where_the_model_comes_from(exported: Path) -> None:
    model = onnx.load(exported / "export" / "student.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    manifest = json.loads((exported / "manifest.json").read_text())
    assert metadata["class_names"].split("\n") == ["dark", "grey", "light"]
    assert metadata["weights_sha256"] == manifest["student_sha256"]
    assert metadata["recipe_sha256"] == manifest["recipe_sha256"]
    assert metadata["color_order"] == "RGB"
    assert str(exported.parent) not in model.SerializeToString().decode("latin1")


@pytest.mark.slow
def test_the_default_of_the_bundle_is_the_fastest_that_passed_and_its_readme_has_its_accuracy(exported: Path) -> None:
    record = json.loads((exported / "export" / "export.json").read_text())["files"]
    bundle = exported / "export" / "bundle"
    default = json.loads((bundle / "manifest.json").read_text())["default_model"]
    speeds = {
        name: entry.get("speedup_over_fp32", 1.0)
        for name, entry in record.items()
        if entry["outcome"] == "PASS" and name != "student.pixels.onnx"
    }
    assert speeds[default] == max(speeds.values())
    assert f'default_model_filename: "{default}"' in (bundle / "config.pbtxt").read_text()
    readme = (bundle / "README.md").read_text()
    assert f"`1/{default}` is the default. Its top-1 is {record[default]['top1']:.2%}" in readme
    for name, entry in record.items():
        assert f"| `1/{name}` |" in readme
        assert entry["outcome"] in next(line for line in readme.splitlines() if line.startswith(f"| `1/{name}` |"))


@pytest.mark.slow
def test_undecided_is_exit_0_and_with_gate_exit_6(command: Command, finished: Path, tmp_path: Path) -> None:
    """The few pictures of the evaluation split decide nothing about a drop of nearly none."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    limits = ("export.max_int8_top1_drop=0.0001", "export.min_int8_agreement=0.01")
    strict = ("export", run, "--precision", "int8", "--set", limits[0], "--set", limits[1])
    lenient = command(*strict, cwd=tmp_path)
    assert lenient.returncode == 0, lenient.stderr
    assert "student.int8.onnx is UNDECIDED" in lenient.stderr
    assert "images would decide" in lenient.stderr
    assert_fails(command(*strict, "--gate", cwd=tmp_path), 6, "UNDECIDED")
    assert command(*strict, "--gate", "--undecided", 7, cwd=tmp_path).returncode == 7
    assert (run / "export" / "student.int8.onnx").exists()


@pytest.mark.slow
def test_the_bundle_runs_with_numpy_pillow_and_onnxruntime_alone(command: Command, exported: Path) -> None:
    bundle = exported / "export" / "bundle"
    result = command("verify", bundle, cwd=exported)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("pass") == 4
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'timm', 'compress', 'export', 'onnx']));"
    program = f"{blocked} sys.argv = ['run.py']; import runpy; runpy.run_path('run.py', run_name='__main__')"
    alone = subprocess.run([sys.executable, "-c", program], cwd=bundle, capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr


@pytest.mark.slow
def test_an_altered_bundle_is_refused(command: Command, exported: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported / "export" / "bundle", bundle)
    path = bundle / "classes.txt"
    path.write_text(path.read_text().replace("dark", "dusk"))
    assert_fails(command("verify", bundle, cwd=tmp_path), 3, "classes.txt")
    assert_fails(command("verify", tmp_path / "none", cwd=tmp_path), 3, "none")


@pytest.mark.slow
def test_a_second_export_replaces_the_first_and_gives_the_same_bytes(command: Command, exported: Path) -> None:
    before = sha256_file(exported / "export" / "student.onnx")
    result = command("export", exported, "--bundle", "--zip", cwd=exported)
    assert result.returncode == 0, result.stderr
    assert sha256_file(exported / "export" / "student.onnx") == before
    assert command("verify", exported / "export" / "bundle.zip", cwd=exported).returncode == 0


@pytest.mark.slow
def test_a_teacher_whose_weights_were_altered_is_not_exported(command: Command, finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    weights = run / "teacher" / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # a hard link may share it with another run
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert_fails(command("export", run, "--teacher", cwd=tmp_path), 3, "teacher")
    assert not (run / "export" / "teacher.onnx").exists()


@pytest.mark.slow
def test_a_gate_that_fails_is_exit_6_and_leaves_nothing_at_the_final_name(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert_fails(command("export", run, "--set", "export.max_logit_diff=1.0e-12", cwd=tmp_path), 6, "allowed")
    assert not list((run / "export").glob("*.onnx"))


@pytest.mark.skipif(sys.platform != "linux", reason="TensorRT for RTX has wheels for Linux only")
@pytest.mark.slow
def test_engines_are_built_without_a_gpu(command: Command, finished: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    result = command(
        *(
            "export",
            run,
            "--format",
            "trt",
            "--precision",
            "fp32",
            "--precision",
            "int8",
            "--capability",
            "89",
            "--json",
        ),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for name in ("student.engine", "student.int8.engine"):
        sidecar = json.loads((run / "export" / f"{name}.json").read_text())
        assert sidecar["engine_sha256"] == sha256_file(run / "export" / name)
        assert sidecar["compute_capabilities"] == ["89"]


@pytest.mark.slow
def test_without_tensorrt_the_onnx_is_written_and_the_exit_is_4(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    run, shadow = tmp_path / "run", tmp_path / "shadow"
    shutil.copytree(finished, run)
    shadow.mkdir()
    for module in ("tensorrt", "tensorrt_rtx_bindings", "tensorrt_rtx"):
        (shadow / f"{module}.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(shadow), os.environ.get("PYTHONPATH", "")])
    result = command("export", run, "--format", "trt", cwd=tmp_path, PYTHONPATH=path)
    assert_fails(result, 4, f"{DISTRIBUTION}[trt")
    assert (run / "export" / "student.onnx").exists()


@pytest.mark.parametrize("status", ["running", "failed"])
def test_a_run_that_is_not_finished_is_refused(command: Command, finished: Path, tmp_path: Path, status: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps({**manifest, "status": status}))
    assert_fails(command("export", run, cwd=tmp_path), 3, status)
    assert not (run / "export").exists()


def test_what_is_no_run_and_no_run_at_all_are_input_errors(command: Command, tmp_path: Path) -> None:
    assert_fails(command("export", tmp_path, cwd=tmp_path), 3, "manifest.json")
    assert_fails(command("export", cwd=tmp_path), 3, "no finished run")
    assert_fails(command("export", "--format", "tflite", cwd=tmp_path), 2, "tflite")


@pytest.mark.slow
def test_other_data_than_the_runs_is_refused(command: Command, finished: Path, tmp_path: Path) -> None:
    from tests.helpers.pictures import write_folder_data

    run = tmp_path / "run"
    shutil.copytree(finished, run)
    data = write_folder_data(tmp_path / "data", train=30)
    recipe = run / "recipe.yaml"
    lines = [f"  root: {data}" if line.startswith("  root:") else line for line in recipe.read_text().splitlines()]
    recipe.write_text("\n".join(lines) + "\n")
    assert_fails(command("export", run, cwd=tmp_path), 3, "trained on")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--capability", "89"], "Add --format trt."),
        (["--format", "trt", "--capability", "foo"], "'foo' names no GPU"),
        (["--set", "train.epochs=3"], "only export.KEY"),
        (["--set", "export.max_int8_drop=0.1"], "max_int8_top1_drop"),
    ],
)
def test_an_option_that_means_nothing_is_refused_before_any_work(
    command: Command, finished: Path, arguments: list[str], said: str
) -> None:
    refused = command("export", finished, *arguments, cwd=finished.parent)
    assert_fails(refused, 2, said)
    assert not (finished / "export").exists()
