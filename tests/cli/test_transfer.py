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

from compress.recipe import load_recipe, recipe_yaml
from tests.helpers.command import Command, Start, assert_fails, snapshot, until, weights
from tests.helpers.hub import Hub
from tests.helpers.pictures import write_images
from tests.helpers.published import publish
from tests.helpers.torchrun import Torchrun

pytestmark = pytest.mark.slow

SMALL = {"channels": [8, 8, 16, 16], "num_classes": 5}
RECIPE = """\
data: {name: folder, root: DATA, image_size: 32, augment: {scale: 0.5, flip: true}}
teacher: {model: resnet14t, source: finetune, weights: TEACHER, epochs: 2, train: {lr: 0.002}}
student: {model: resnet10t, pretrained: STUDENT}
supervision: {method: kd}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise of 48 x 40 pixels."""
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(root / "train" / name, 20, seed=number, size=48, shade=80 * number)
        write_images(root / "val" / name, 12, seed=100 + number, size=40, shade=80 * number)
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of weights of 5 other classes, by the role that they are for."""
    root = tmp_path_factory.mktemp("published")
    publish("resnet14t", root / "teacher", args=SMALL, mean=(0.4, 0.4, 0.5), interpolation="bicubic", crop_pct=0.8)
    publish("resnet10t", root / "student", args=SMALL, seed=1)
    publish("vit_tiny_patch16_224", root / "headless", args={"num_classes": 0, "embed_dim": 48, "depth": 2})
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def photos(pictures: Path, published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "photos.yaml"
    text = RECIPE.replace("DATA", str(pictures)).replace("TEACHER", str(published["teacher"]))
    path.write_text(text.replace("STUDENT", str(published["student"])))
    return path


@pytest.fixture(scope="module")
def transferred(command: Command, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, below a folder that also holds its teacher. Tests only read it."""
    home = tmp_path_factory.mktemp("transferred")
    result = command("distill", photos, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home / json.loads(result.stdout)["run"]


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
    assert command("export", tmp_path / manifest["run"], cwd=tmp_path).returncode == 0
    assert_fails(command("benchmark", tmp_path / manifest["run"], cwd=tmp_path), 3, "has no last layer")


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
