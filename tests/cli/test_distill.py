"""The real command in a subprocess: from a recipe to a run folder, again, resumed, and with everything wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compress.system.files import sha256_file
from tests.helpers.command import Command, assert_fails
from tests.helpers.paths import ROOT
from tests.helpers.pictures import TINY, write_folder_data


def test_a_finished_run_holds_what_the_design_names(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        *("recipe.yaml", "manifest.json", "metrics.jsonl", "teacher", "student", "checkpoints")
    }
    manifest = json.loads((finished / "manifest.json").read_text())
    expected = {"schema_version", "status", "student_top1", "teacher_top1", "student_sha256", "recipe_sha256"}
    assert manifest.keys() >= expected | {"versions", "started", "seconds"}
    assert manifest["status"] == "finished"
    assert manifest["student_sha256"] == sha256_file(finished / "student" / "model.safetensors")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        *(("teacher", 0), ("teacher", 1), ("student", 0), ("student", 1))
    ]
    assert finished.name.startswith("tiny-ka-ps+dtd-flsw-s0-")
    for model in ("teacher", "student"):
        assert {path.name for path in (finished / model).iterdir()} >= {"config.json", "model.safetensors"}


def test_the_next_run_reuses_the_teacher_and_gets_the_same_student(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    first = json.loads((finished / "manifest.json").read_text())
    again = command("distill", tiny_recipe, "--json", cwd=finished.parents[1])
    assert "reused" in again.stderr
    manifest = json.loads(again.stdout)
    assert manifest["student_sha256"] == first["student_sha256"]
    assert manifest["teacher"]["sha256"] == first["teacher"]["sha256"]
    assert Path(manifest["run"]) != finished
    other = json.loads(command("distill", tiny_recipe, "--method", "kd", "--json", cwd=finished.parents[1]).stdout)
    assert other["student_sha256"] != first["student_sha256"]
    assert other["teacher"]["sha256"] == first["teacher"]["sha256"]


def test_stdout_is_empty_without_json_and_the_last_lines_say_what_came_out(
    command: Command, tiny_recipe: Path, finished: Path
) -> None:
    result = command("distill", tiny_recipe, "--method", "ce", cwd=finished.parents[1])
    assert result.stdout == ""
    assert "teacher  top1" in result.stderr
    assert "student  top1" in result.stderr
    assert "model.safetensors" in result.stderr


def test_predict_names_classes_and_probabilities(command: Command, finished: Path, folder_data: Path) -> None:
    images = [folder_data / "val" / name / "000.png" for name in ("dark", "light")]
    result = command("predict", finished, *images, "--json", cwd=finished)
    rows = json.loads(result.stdout)
    assert [row["image"] for row in rows] == list(map(str, images))
    for row in rows:
        assert {entry["class"] for entry in row["classes"]} == {"dark", "grey", "light"}
        assert sum(entry["probability"] for entry in row["classes"]) == pytest.approx(1, abs=1e-4)
    lines = command("predict", finished, images[0], "--top", 1, cwd=finished).stdout.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(str(images[0]))
    assert_fails(command("predict", finished, images[0], "none.png", cwd=finished), 3, "no image at none.png")


def test_predictions_are_those_of_timm_itself(command: Command, finished: Path, folder_data: Path) -> None:
    """An independent client: timm's own loading and its own transform for the model's configuration."""
    import timm
    import torch
    from PIL import Image
    from timm.data.config import resolve_data_config
    from timm.data.transforms_factory import create_transform

    import compress  # noqa: F401 - registers the architecture

    path = folder_data / "val" / "grey" / "001.png"
    model = timm.create_model(f"local-dir:{finished / 'student'}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    image = transform(Image.open(path).convert("RGB"))
    assert isinstance(image, torch.Tensor)
    with torch.no_grad():
        expected = model(image.unsqueeze(0)).softmax(1)[0]
    (row,) = json.loads(command("predict", finished, path, "--json", cwd=finished).stdout)
    names = json.loads((finished / "student" / "config.json").read_text())["label_names"]
    found = {entry["class"]: entry["probability"] for entry in row["classes"]}
    for name, probability in zip(names, expected.tolist(), strict=True):
        assert found[name] == pytest.approx(probability, abs=1e-3)


def test_runs_are_listed_and_pruned(command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished.parents[1], home, symlinks=True)
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


def test_resuming_a_finished_run_prints_its_manifest_and_goes_on_only_for_more_epochs(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished.parents[1], home)
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


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_sigterm_saves_and_resume_ends_at_the_same_weights(tmp_path: Path, phase: str) -> None:
    write_folder_data(tmp_path / "data", train=200)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        TINY.replace("DATA", str(tmp_path / "data"))
        .replace("epochs: 2,", "epochs: 6,")
        .replace("epochs: 2}", "epochs: 6}")
    )

    def start(home: str, *more: str) -> subprocess.Popen[str]:
        (tmp_path / home).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "compress", "distill", str(recipe), "--json", *more],
            cwd=tmp_path / home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    whole = json.loads(start("whole").communicate()[0])
    process = start("parts")
    assert process.stderr
    for line in process.stderr:
        if line.startswith(f"{phase} 3/6"):
            break
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    rest = process.stderr.read()
    assert process.wait() == 143
    assert rest.strip().splitlines()[-1].startswith("error: ")
    resumed = start("parts", "--resume")
    output, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert "going on from epoch" in errors
    assert json.loads(output)["student_sha256"] == whole["student_sha256"]
    assert len(list((tmp_path / "parts" / "runs").glob("recipe-*"))) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "train.epoch=1"], 2, ["train.epoch", "epochs"]),
        (["--method", "kaa"], 2, ["kaa"]),
        (["--set", "student.model=resnet18x"], 2, ["resnet18x"]),
        (["--set", "data.root=/nowhere"], 3, ["/nowhere"]),
        (
            ["--set", "teacher={model: resnet10t, source: checkpoint, checkpoint: none.safetensors}"],
            3,
            ["none.safetensors"],
        ),
        (["--set", "train.batch_size=x"], 2, ["train.batch_size"]),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(
    command: Command, tiny_recipe: Path, tmp_path: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    assert_fails(command("distill", tiny_recipe, *arguments, cwd=tmp_path), code, *words)


def test_cuda_that_is_not_there_is_an_environment_error(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    result = command("distill", tiny_recipe, "--device", "cuda", cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    assert_fails(result, 4, "CUDA")


def test_a_teacher_with_other_classes_is_refused_by_name(
    command: Command, finished: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    source = f"source: checkpoint, checkpoint: {finished}/teacher"
    override = f"teacher={{model: resnet10t, args: {{channels: [8, 8, 16, 16]}}, {source}}}"
    result = command("distill", tiny_recipe, "--set", override, "--set", "data={name: digits}", cwd=tmp_path)
    assert_fails(result, 3, "3 classes", "10")


def test_a_truncated_image_is_named(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data")
    path = data / "train" / "grey" / "004.png"
    path.write_bytes(path.read_bytes()[:60])
    assert_fails(command("distill", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path), 3, "grey/004.png")


def test_a_folder_that_cannot_be_written_is_an_environment_error(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert_fails(command("distill", tiny_recipe, "--out", blocked / "run", cwd=tmp_path), 4, str(blocked))
    assert_fails(command("distill", tiny_recipe, "--out", blocked, cwd=tmp_path), 4, str(blocked))
    assert blocked.read_text() == "in the way"


def test_a_folder_in_use_names_its_holder(command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path) -> None:
    from compress.runs.locks import held

    out = tmp_path / "run"
    shutil.copytree(finished, out)
    with held(out):
        result = command("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.epochs=9", cwd=tmp_path)
    assert_fails(result, 4, f"process {os.getpid()}")


@pytest.mark.parametrize(
    "override",
    ["student.model=resnet18x", "student.args.act_layer=gelu_typo", "student.args.channels=[-8, 8, 8, 8]"],
)
def test_a_mistake_in_the_student_shows_before_its_teacher_is_trained(
    command: Command, tiny_recipe: Path, tmp_path: Path, override: str
) -> None:
    assert_fails(command("distill", tiny_recipe, "--set", override, cwd=tmp_path), 2, "resnet")
    assert not (tmp_path / "runs" / "teachers").exists()
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    assert json.loads(manifest.read_text())["status"] == "failed"


def test_batches_of_one_image_are_refused_with_batchnorm(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    assert_fails(command("distill", tiny_recipe, "--set", "train.batch_size=1", cwd=tmp_path), 2, "batches of one")


def test_a_finished_run_stays_finished_where_its_extension_fails(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished.parents[1], home)
    out = home / "runs" / finished.name
    before = {name: (out / name).read_bytes() for name in ("manifest.json", "recipe.yaml")}
    other = write_folder_data(tmp_path / "other", train=25)
    longer = ("distill", tiny_recipe, "--out", out, "--resume", "--set", "train.epochs=4")
    assert_fails(command(*longer, "--set", f"data.root={other}", cwd=home), 3, "other folder data")
    assert {name: (out / name).read_bytes() for name in before} == before
    shutil.rmtree(out / "checkpoints")
    assert_fails(command(*longer, cwd=home), 3, "checkpoints", "removed")
    assert {name: (out / name).read_bytes() for name in before} == before


def test_pruning_passes_over_what_is_not_a_teacher_and_keeps_what_was_finished(
    command: Command, finished: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(finished.parents[1], home)
    (home / "runs" / "teachers" / "README.txt").write_text("mine")
    manifest = home / "runs" / finished.name / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"finished"', '"failed"'))
    result = command("runs", "prune", "--failed", "--yes", cwd=home)
    assert result.returncode == 0, result.stderr
    assert (home / "runs" / "teachers" / "README.txt").exists()
    assert (home / "runs" / finished.name / "student" / "model.safetensors").exists()


def test_a_folder_that_ended_before_its_first_manifest_is_started_afresh(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "recipe.yaml").write_text("half")
    result = command("distill", tiny_recipe, "--out", out, "--resume", cwd=finished.parents[1])
    assert result.returncode == 0, result.stderr


def test_a_group_without_a_command_shows_its_help(command: Command, tmp_path: Path) -> None:
    for arguments in ([], ["runs"]):
        result = command(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert "Commands:\n" in result.stderr


def test_usage_errors_are_exit_2(command: Command, tmp_path: Path) -> None:
    assert_fails(command("distill", cwd=tmp_path), 2, "RECIPE")
    assert_fails(command("destill", cwd=tmp_path), 2, "destill")
    assert_fails(command("distill", "none.yaml", cwd=tmp_path), 2, "none.yaml")


def test_help_and_version_and_schema_and_doctor_answer(command: Command, tmp_path: Path) -> None:
    assert "distill" in command("--help", cwd=tmp_path).stdout
    assert command("--version", cwd=tmp_path).stdout.strip()
    assert json.loads(command("recipe", "schema", cwd=tmp_path).stdout)["properties"]["train"]
    facts = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert facts["torch"]
    assert json.loads(command("data", "list", "--json", cwd=tmp_path).stdout)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """As documented, in a real bash; the function that it defines is then called as a press of the tab key would."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "compress").write_text(f'#!/bin/sh\nexec {sys.executable} -m compress "$@"\n')
    (folder / "compress").chmod(0o755)
    script = (
        'eval "$(_COMPRESS_COMPLETE=bash_source compress)"\n'
        'COMP_WORDS=(compress dis); COMP_CWORD=1; _compress_completion compress; echo "${COMPREPLY[@]}"\n'
        "COMPREPLY=(); COMP_WORDS=(compress export --prec); COMP_CWORD=2; _compress_completion compress\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["distill", "--precision"], result.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['compress', '--help']\nfrom compress.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pydantic', 'onnx', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stderr.strip() == "[]"


def test_a_closed_stdout_is_no_error(tiny_recipe: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        f"{sys.executable} -m compress recipe schema | head -1",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "{"
    assert result.stderr == ""
