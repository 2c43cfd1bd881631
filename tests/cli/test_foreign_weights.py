"""The real command with weights of others: teachers without a head, the Hub, and weights that do not do."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from compress.recipe import load_recipe, recipe_yaml
from tests.helpers.command import Command, assert_fails, snapshot
from tests.helpers.hub import Hub
from tests.helpers.published import SMALL, publish

pytestmark = pytest.mark.slow


def test_a_teacher_without_a_last_layer_teaches_by_its_features(
    command: Command, photos: Path, published: dict[str, Path], tmp_path: Path
) -> None:
    teacher = f"{{model: vit_tiny_patch16_224, source: pretrained, weights: {published['headless']}, image_size: 48}}"
    options = ("--set", f"teacher={teacher}", "--set", "supervision.terms=[{name: fitnet, weight: 10}]")
    refused = command("distill", photos, *options, cwd=tmp_path)
    assert_fails(refused, 2, "has no last layer", "method kd needs", "teacher.source: finetune")
    dist = command(
        "distill", photos, "--method", "ce", *options[:2], "--set", "supervision.terms=[{name: dist}]", cwd=tmp_path
    )
    assert_fails(dist, 2, "dist of supervision.terms needs them")
    alone = shutil.copyfile(published["headless"] / "model.safetensors", tmp_path / "alone.safetensors")
    args = "args: {num_heads: 3, embed_dim: 48, depth: 2}, image_size: 48"
    by_file = f"teacher={{model: vit_tiny_patch16_224, source: pretrained, weights: {alone}, {args}}}"
    assert_fails(command("distill", photos, "--set", by_file, cwd=tmp_path), 2, "has no last layer", "method kd needs")
    result = command("distill", photos, "--method", "ce", *options, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest.get("teacher_top1") is None
    lines = [json.loads(line) for line in (tmp_path / manifest["run"] / "metrics.jsonl").read_text().splitlines()]
    assert all(line["fitnet"] > 0 for line in lines)
    run = tmp_path / manifest["run"]
    assert_fails(command("export", run, "--teacher", cwd=tmp_path), 2, "has no last layer", "Leave out --teacher")
    assert command("export", run, cwd=tmp_path).returncode == 0
    briefly = ("--runtime", "ort", "--batch", "1", "--seconds", "0")
    measured = command("benchmark", run, *briefly, "--json", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout)["reference"] == "student.torch"
    assert command("report", run, cwd=tmp_path).returncode == 0


def test_only_the_features_of_a_teacher_of_other_classes_are_used(
    command: Command, photos: Path, published: dict[str, Path], tmp_path: Path
) -> None:
    """As of CLIP's image towers, whose last layer is no classifier."""
    teacher = f"teacher={{model: resnet14t, source: pretrained, weights: {published['teacher']}}}"
    terms = ("--set", "supervision.terms=[{name: attention_transfer, weight: 10, student: layer2, teacher: layer2}]")
    result = command("distill", photos, "--method", "ce", "--set", teacher, *terms, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest.get("teacher_top1") is None
    assert_fails(
        command("distill", photos, "--method", "kd", "--set", teacher, *terms, cwd=tmp_path), 3, "has 5 classes"
    )


def test_weights_of_the_hub_are_fetched_once_and_then_need_no_network(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    hub = Hub()
    publish("resnet10t", tmp_path / "timm")
    publish("resnet14t", tmp_path / "own", args=SMALL, mean=(0.4, 0.4, 0.5))
    for repo, folder in (("timm/resnet10t.c3_in1k", "timm"), ("me/own", "own")):
        for path in (tmp_path / folder).iterdir():
            hub.files[f"{repo}/{path.name}"] = path.read_bytes()
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "cache")}
    options = ("--set", "student={model: resnet10t, pretrained: true}")
    options += ("--set", "teacher={model: 'hf-hub:me/own', source: finetune, epochs: 1}", "--set", "train.epochs=1")
    try:
        first = command("distill", photos, *options, "--json", cwd=tmp_path, **env)
        assert first.returncode == 0, first.stderr
        asked = len(hub.requests)
        assert asked
        again = command("distill", photos, *options, "--json", cwd=tmp_path, **env)
        assert again.returncode == 0, again.stderr
        assert len(hub.requests) == asked
    finally:
        hub.close()
    offline = command("distill", photos, *options, "--json", cwd=tmp_path, HF_HUB_OFFLINE="1", **env)
    assert offline.returncode == 0, offline.stderr
    student = json.loads(offline.stdout)["student_sha256"]
    assert json.loads(first.stdout)["student_sha256"] == student


def test_a_teacher_that_knows_nothing_is_refused_with_its_number(command: Command, tmp_path: Path) -> None:
    publish("resnet10t", tmp_path / "random", args={"num_classes": 10, "channels": [8, 8, 8, 8]})
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data: {name: digits}\n"
        f"teacher: {{model: resnet10t, source: pretrained, weights: {tmp_path / 'random'}}}\n"
        "student: {model: resnet10t, args: {channels: [8, 8, 8, 8]}}\n"
        "train: {epochs: 1}\n"
    )
    result = command("distill", recipe, "--method", "kd", cwd=tmp_path)
    assert_fails(result, 3, "top-1 of", "on 359 images is not above chance")
    assert "student 1/1" not in result.stderr
    assert command("distill", recipe, "--method", "ce", cwd=tmp_path).returncode == 0


def test_bad_weights_are_one_line_and_the_right_code(
    command: Command, photos: Path, published: dict[str, Path], tmp_path: Path
) -> None:
    def ends(code: int, *words: str, **changes: object) -> None:
        options = [part for key, value in changes.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
        assert_fails(command("distill", photos, *options, cwd=tmp_path), code, *words)

    ends(2, "Did you mean resnet10t.c3_in1k", student="{model: resnet10t.c3_in1kk, pretrained: true}")
    ends(2, "student.pretrained", student="{model: resnet10t, args: {pretrained: true}}")
    ends(3, "holds weights of resnet14t", student__pretrained=published["teacher"])
    ends(3, "no weights at", student__pretrained=tmp_path / "nowhere")
    cut = Path(shutil.copytree(published["student"], tmp_path / "cut"))
    content = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(content[: len(content) // 2])
    ends(3, "is not whole", student__pretrained=cut)
    classes = f"{{model: resnet14t, source: pretrained, weights: {published['teacher']}}}"
    ends(3, "has 5 classes", "teacher.source: finetune", teacher=classes)
    ends(2, "do nothing with teacher.source: pretrained", teacher=f"{classes[:-1]}, epochs: 5}}")
    ends(2, "teacher.weights is for", teacher="{model: resnet14t, weights: x}")


def test_without_a_network_it_is_one_line_with_the_command_for_another_machine(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hub")}
    result = command("distill", photos, "--set", "student.pretrained=true", cwd=tmp_path, **offline)
    assert_fails(result, 4, "timm/resnet10t.c3_in1k", "hf download", "student.pretrained")
    teacher = "teacher={model: resnet14t, source: finetune}"
    result = command("distill", photos, "--set", teacher, cwd=tmp_path, **offline)
    assert_fails(result, 4, "timm/resnet14t.c3_in1k", "hf download", "teacher.weights")
    assert len([line for line in result.stderr.splitlines() if "hf download" in line or "rror" in line]) == 1


def test_a_run_of_an_earlier_version_is_found_finished(command: Command, tiny_recipe: Path, home: Path) -> None:
    (run,) = (path for path in (home / "runs").iterdir() if (path / "recipe.yaml").exists())
    content = yaml.safe_load((run / "recipe.yaml").read_text())
    trained = content["teacher"].pop("train")
    content["teacher"] = {key: content["teacher"][key] for key in ("model", "stem", "args", "source", "seed")}
    content["teacher"]["epochs"] = trained["epochs"]
    del content["student"]["pretrained"], content["data"]["crop_pct"]
    newer = ("tracker", "head_lr", "layer_decay", "freeze", "freeze_epochs", "grad_accumulation")
    content["train"] = {key: value for key, value in content["train"].items() if key not in newer} | {
        "tensorboard": False
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(content))
    before = snapshot(run)
    result = command("distill", tiny_recipe, "--resume", "--out", run, cwd=home)
    assert result.returncode == 0, result.stderr
    assert snapshot(run) == before
    assert recipe_yaml(load_recipe(run / "recipe.yaml"))
