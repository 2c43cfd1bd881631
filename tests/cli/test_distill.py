"""The real `compress distill` as a process: from a recipe to a run folder, again, and with everything wrong."""

import json
from pathlib import Path

import PIL
import pytest

from compress.system.files import sha256_file
from tests.helpers.command import Command, assert_fails
from tests.helpers.pictures import write_folder_data


def test_a_finished_run_holds_what_the_design_names(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} >= {
        *("recipe.yaml", "manifest.json", "metrics.jsonl", "teacher", "student", "checkpoints")
    }
    manifest = json.loads((finished / "manifest.json").read_text())
    expected = {"schema_version", "status", "student_top1", "teacher_top1", "student_sha256", "recipe_sha256"}
    assert manifest.keys() >= expected | {"versions", "started", "seconds"}
    assert manifest["status"] == "finished"
    assert manifest["versions"]["pillow"] == PIL.__version__
    assert manifest["student_sha256"] == sha256_file(finished / "student" / "model.safetensors")
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        *(("teacher", 0), ("teacher", 1), ("student", 0), ("student", 1))
    ]
    assert finished.name.startswith("tiny-ka-ps+dtd-flsw-s0-")
    for model in ("teacher", "student"):
        assert {path.name for path in (finished / model).iterdir()} >= {"config.json", "model.safetensors"}


def test_the_next_run_reuses_the_teacher_and_gets_the_same_student(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    first = json.loads((finished / "manifest.json").read_text())
    again = command("distill", tiny_recipe, "--json", cwd=home)
    assert "reused" in again.stderr
    manifest = json.loads(again.stdout)
    assert manifest["student_sha256"] == first["student_sha256"]
    assert manifest["teacher"]["sha256"] == first["teacher"]["sha256"]
    assert Path(manifest["run"]) != finished
    other = json.loads(command("distill", tiny_recipe, "--method", "kd", "--json", cwd=home).stdout)
    assert other["student_sha256"] != first["student_sha256"]
    assert other["teacher"]["sha256"] == first["teacher"]["sha256"]


def test_stdout_is_empty_without_json_and_the_last_lines_say_what_came_out(
    command: Command, tiny_recipe: Path, home: Path
) -> None:
    result = command("distill", tiny_recipe, "--method", "ce", cwd=home)
    assert result.stdout == ""
    assert "teacher  top1" in result.stderr
    assert "student  top1" in result.stderr
    assert "model.safetensors" in result.stderr


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
