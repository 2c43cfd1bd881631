"""The real command with published weights: a fine-tuned teacher, a pretrained student, and how each sees pictures."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from compress.recipe import load_recipe
from tests.helpers.command import Command, Start, snapshot, until, weights
from tests.helpers.published import SMALL, publish
from tests.helpers.torchrun import Torchrun

pytestmark = pytest.mark.slow


def manifest_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "manifest.json").read_text())


def accuracy_by_timm(folder: Path, pictures: Path) -> float:
    """Top-1 of a saved model, by timm's own loading, preprocessing and nothing of ours."""
    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    right = []
    for label, name in enumerate(sorted(path.name for path in (pictures / "val").iterdir())):
        for path in sorted((pictures / "val" / name).iterdir()):
            with torch.inference_mode():
                logits = model(transform(Image.open(path).convert("RGB"))[None])
            right.append(int(logits.argmax()) == label)
    return sum(right) / len(right)


def test_teacher_and_student_are_measured_as_their_own_weights_see_pictures(transferred: Path, pictures: Path) -> None:
    manifest = manifest_of(transferred)
    assert manifest["status"] == "finished"
    assert manifest["student_top1"] == accuracy_by_timm(transferred / "student", pictures)
    assert manifest["teacher_top1"] == accuracy_by_timm(transferred / "teacher", pictures)
    student, teacher = (
        json.loads((transferred / role / "config.json").read_text())["pretrained_cfg"]
        for role in ("student", "teacher")
    )
    assert (student["mean"], student["interpolation"], student["crop_pct"]) == ([0.5, 0.4, 0.3], "bilinear", 0.9)
    assert (teacher["mean"], teacher["interpolation"], teacher["crop_pct"]) == ([0.4, 0.4, 0.5], "bicubic", 0.8)


def test_the_resolved_recipe_says_which_defaults_were_taken(transferred: Path) -> None:
    resolved = yaml.safe_load((transferred / "recipe.yaml").read_text())
    train, of_teacher = resolved["train"], resolved["teacher"]["train"]
    assert (train["optimizer"], train["lr"], train["weight_decay"], train["warmup_epochs"]) == (
        "adamw",
        5e-4,
        0.05,
        0.2,
    )
    assert (of_teacher["optimizer"], of_teacher["lr"], of_teacher["epochs"]) == ("adamw", 0.002, 2)
    assert load_recipe(transferred / "recipe.yaml").dump() == resolved


def test_the_teacher_is_kept_by_its_published_weights_and_reused(
    command: Command, photos: Path, transferred: Path, published: dict[str, Path], tmp_path: Path
) -> None:
    home = Path(shutil.copytree(transferred.parents[1], tmp_path / "home"))
    again = command("distill", photos, "--method", "ce", cwd=home)
    assert again.returncode == 0, again.stderr
    assert "teacher: reused from" in again.stderr
    other = publish("resnet14t", tmp_path / "other", seed=5, args=SMALL, mean=(0.4, 0.4, 0.5))
    assert other.num_classes == 5
    changed = command("distill", photos, "--set", f"teacher.weights={tmp_path / 'other'}", cwd=home)
    assert changed.returncode == 0, changed.stderr
    assert "to be trained in" in changed.stderr


def test_a_file_of_an_export_and_the_run_itself_predict_alike(
    command: Command, transferred: Path, pictures: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(transferred.parents[1], tmp_path / "home"))
    run = home / transferred.relative_to(transferred.parents[1])
    made = command("export", run, "--preprocess", "--teacher", "--bundle", cwd=home)
    assert made.returncode == 0, made.stderr
    images = sorted((pictures / "val").rglob("*.png"))[::4]
    said = []
    for model in (run, run / "export" / "student.onnx", run / "export" / "student.pixels.onnx"):
        result = command("predict", model, *images, "--json", cwd=home)
        assert result.returncode == 0, result.stderr
        said.append(json.loads(result.stdout))
    expected: Any = timm.create_model(f"local-dir:{run / 'student'}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(expected))
    for number, path in enumerate(images):
        with torch.inference_mode():
            best = expected(transform(Image.open(path).convert("RGB"))[None]).softmax(1).max()
        for rows in said:
            first = rows[number]["classes"][0]
            assert first["class"] == said[0][number]["classes"][0]["class"]
            assert first["probability"] == pytest.approx(float(best), abs=2e-3)
    bundle = json.loads((run / "export" / "bundle" / "manifest.json").read_text())
    assert (bundle["mean"], bundle["interpolation"], bundle["crop_pct"]) == ([0.5, 0.4, 0.3], "bilinear", 0.9)
    measured = command("benchmark", run, "--runtime", "ort", "--seconds", "0.05", "--json", cwd=home)
    assert measured.returncode == 0, measured.stderr
    assert command("report", run, cwd=home).returncode == 0
    for page in ("report.html", "report.md"):
        assert "Would labels alone have done? Not measured" in (run / page).read_text()
    top1 = {one["name"]: one["accuracy"]["top1"]["value"] for one in json.loads(measured.stdout)["candidates"]}
    manifest = manifest_of(run)
    assert top1["teacher.torch"] == top1["teacher.onnx"] == pytest.approx(manifest["teacher_top1"])
    assert top1["student.torch"] == top1["student.onnx"] == pytest.approx(manifest["student_top1"])


def test_interrupted_in_teacher_and_student_it_resumes_to_the_same_bits(
    command: Command, start: Start, photos: Path, transferred: Path, tmp_path: Path
) -> None:
    for text in ("teacher 1/2", "student 1/2"):
        process = start("distill", photos, "--resume", cwd=tmp_path)
        until(process, text)
        process.terminate()
        process.wait(60)
    result = command("distill", photos, "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert weights(tmp_path) == (transferred / "student" / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "changes",
    [
        ["teacher.image_size=64"],
        ["teacher.cache={views: 1}", "supervision.method=ka+dtd"],
        ["teacher.ensemble=[{model: resnet10t, args: {channels: [8, 8, 8, 8]}, epochs: 1, seed: 3}]"],
        ["train.quantize=int8", "train.quantize_epochs=1"],
        ["teacher.assistants=[{model: resnet10t, pretrained: STUDENT}]"],
        ["supervision.terms=[{name: fitnet}, {name: dkd}]"],
        ["student={model: resnet10t, args: {channels: [8, 8, 8, 8]}}"],
        ["teacher={model: resnet10t, args: {channels: [8, 8, 8, 8]}, epochs: 2}"],
    ],
    ids=lambda changes: changes[0][:18],
)
def test_everything_else_works_with_it(
    command: Command, photos: Path, published: dict[str, Path], pictures: Path, tmp_path: Path, changes: list[str]
) -> None:
    options = [part for text in changes for part in ("--set", text.replace("STUDENT", str(published["student"])))]
    result = command("distill", photos, *options, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    run = tmp_path / manifest["run"]
    assert manifest["student_top1"] == accuracy_by_timm(run / "student", pictures)
    if "ensemble" not in changes[0]:
        assert manifest["teacher_top1"] == accuracy_by_timm(run / "teacher", pictures)
    before = snapshot(run)
    assert command("distill", photos, *options, "--resume", "--out", run, cwd=tmp_path).returncode == 0
    assert snapshot(run) == before


def test_a_run_is_extended_and_has_the_warm_up_that_it_began_with(
    command: Command, photos: Path, transferred: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(transferred.parents[1], tmp_path / "home"))
    run = home / transferred.relative_to(transferred.parents[1])
    result = command("distill", photos, "--set", "train.epochs=3", "--resume", "--out", run, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    resolved = yaml.safe_load((run / "recipe.yaml").read_text())
    assert (resolved["train"]["epochs"], resolved["train"]["warmup_epochs"]) == (3, 0.2)
    assert json.loads(result.stdout)["teacher"]["sha256"] == manifest_of(transferred)["teacher"]["sha256"]


def test_a_part_of_train_that_is_held_out_is_cropped_as_each_model_wants_it(
    command: Command, photos: Path, pictures: Path, tmp_path: Path
) -> None:
    shutil.copytree(pictures / "train", tmp_path / "data" / "train")
    options = (
        "--set",
        f"data.root={tmp_path / 'data'}",
        "--set",
        "data.holdout=0.25",
        "--set",
        "train.schedule=constant",
    )
    result = command("distill", photos, *options, "--set", "teacher.train={}", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["data"]["eval_images"] == 15
    assert manifest["data"]["sha256"] != manifest["teacher"]["data"]  # they crop by 0.9 and 0.8


def test_in_lockstep_each_run_has_the_bits_that_it_has_alone(
    command: Command, photos: Path, transferred: Path, tmp_path: Path
) -> None:
    result = command("sweep", photos, "--method", "ce", "--method", "kd", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = load_file(tmp_path / "runs" / "photos-kd-s0" / "student" / "model.safetensors")
    alone = load_file(transferred / "student" / "model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in alone.items())


def test_two_processes_fine_tune_one_run(torchrun: Torchrun, photos: Path, pictures: Path, tmp_path: Path) -> None:
    launcher = torchrun("distill", photos, "--json", cwd=tmp_path)
    output, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    manifest = json.loads(output)
    assert manifest["student_top1"] == accuracy_by_timm(tmp_path / manifest["run"] / "student", pictures)
