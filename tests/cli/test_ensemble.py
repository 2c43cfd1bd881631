"""The real command with teacher.ensemble: the targets' accuracy, what is kept and reused, export, and mistakes."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

import compress  # noqa: F401 - registers the architecture
from compress.data import load_data
from compress.recipe import load_recipe
from compress.system.files import sha256_file
from tests.helpers.command import Command, Start, assert_fails, leftovers, until
from tests.reference.ensemble_reference import mean_probabilities

ARGS = "args: {channels: [8, 8, 16, 16]}"  # those of the recipe's teacher
pytestmark = pytest.mark.slow


def ensemble(checkpoint: Path) -> str:
    return (
        f"teacher.ensemble=[{{model: resnet10t, {ARGS}, seed: 1}}, "
        f"{{model: resnet10t, {ARGS}, source: checkpoint, checkpoint: {checkpoint}}}]"
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "teacher.pth"
    torch.save(timm.create_model("resnet10t_smallstem", num_classes=3, channels=[8, 8, 16, 16]).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def taught(
    command: Command, tiny_recipe: Path, finished: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], str]:
    """Where a run had three teachers, of which a run before it left one; its manifest and its lines."""
    home = shutil.copytree(finished.parents[1], tmp_path_factory.mktemp("taught") / "home")
    result = command("distill", tiny_recipe, "--set", ensemble(checkpoint), "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home, json.loads(result.stdout), result.stderr


def test_members_are_kept_and_reused_as_if_each_were_alone(
    command: Command, tiny_recipe: Path, finished: Path, taught: tuple[Path, dict[str, Any], str]
) -> None:
    home, manifest, errors = taught
    assert errors.count("reused from") == 1
    assert errors.count("trained in") == 1
    members = manifest["teacher"]["members"]
    assert [member["source"] for member in members] == ["train", "train", "checkpoint"]
    assert members[0]["sha256"] == json.loads((finished / "manifest.json").read_text())["teacher"]["sha256"]
    alone = command("distill", tiny_recipe, "--set", "teacher.seed=1", "--json", cwd=home)
    assert "reused from" in alone.stderr
    assert json.loads(alone.stdout)["teacher"]["sha256"] == members[1]["sha256"]


def test_its_accuracy_is_that_of_the_mean_of_the_members_probabilities(
    tiny_recipe: Path, taught: tuple[Path, dict[str, Any], str], checkpoint: Path
) -> None:
    home, manifest, _ = taught
    data = load_data(load_recipe(tiny_recipe).data)
    pixels = torch.from_numpy(data.eval_images).permute(0, 3, 1, 2) / 255
    images = (pixels - torch.tensor(data.mean).view(1, 3, 1, 1)) / torch.tensor(data.std).view(1, 3, 1, 1)
    last = timm.create_model("resnet10t_smallstem", num_classes=3, channels=[8, 8, 16, 16])
    last.load_state_dict(torch.load(checkpoint))
    kept = {sha256_file(path): path.parent for path in home.glob("runs/teachers/*/model/model.safetensors")}
    members = [
        timm.create_model(f"local-dir:{kept[member['sha256']]}", pretrained=True)
        for member in manifest["teacher"]["members"][:2]
    ] + [last]
    with torch.no_grad():
        logits = [member.eval()(images).tolist() for member in members]
    expected = torch.tensor(mean_probabilities(logits)).argmax(1)
    assert manifest["teacher_top1"] == pytest.approx((expected.numpy() == data.eval_labels).mean())
    weights = home / manifest["run"] / "teacher" / "model.safetensors"
    assert manifest["teacher"]["sha256"] == sha256_file(weights)
    assert {name.split(".")[1] for name in load_file(weights)} == {"0", "1", "2"}


def test_it_is_exported_and_benchmarked_like_any_teacher_and_refused_where_it_was_altered(
    command: Command, taught: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    home, manifest, _ = taught
    run = shutil.copytree(home / manifest["run"], tmp_path / "run")
    exported = command("export", run, "--teacher", "--json", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    record = json.loads((run / "export" / "teacher.export.json").read_text())
    assert record["files"]["teacher.onnx"]["top1"] == pytest.approx(manifest["teacher_top1"])
    briefly = ("--seconds", "0.01", "--batch", "1", "--threads", "1", "--runtime", "ort")
    measured = command("benchmark", run, *briefly, "--json", cwd=tmp_path)
    assert measured.returncode == 0, measured.stderr
    candidates = {entry["name"]: entry for entry in json.loads(measured.stdout)["candidates"]}
    assert candidates["teacher.torch"]["accuracy"]["top1"]["value"] == pytest.approx(manifest["teacher_top1"])
    weights = run / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    assert_fails(command("benchmark", run, *briefly, cwd=tmp_path), 3, "altered")
    assert_fails(command("export", run, "--teacher", cwd=tmp_path), 3, "altered")


def test_pruning_keeps_the_members_that_an_ensemble_refers_to(
    command: Command, taught: tuple[Path, dict[str, Any], str], tmp_path: Path
) -> None:
    home = shutil.copytree(taught[0], tmp_path / "home")
    for manifest in home.glob("runs/*/manifest.json"):
        if manifest.parent.name != Path(taught[1]["run"]).name:
            shutil.rmtree(manifest.parent)
    assert command("runs", "prune", "--yes", cwd=home).returncode == 0
    assert len(list(home.glob("runs/teachers/*/model/model.safetensors"))) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.faults)])
def test_stopped_while_its_second_member_is_trained_it_goes_on_to_the_same_weights(
    command: Command, start: Start, tiny_recipe: Path, taught: tuple[Path, dict[str, Any], str], checkpoint: Path,
    home: Path, number: signal.Signals,
) -> None:  # fmt: skip
    process = start("distill", tiny_recipe, "--set", ensemble(checkpoint), cwd=home)
    until(process, "teacher 1/2")
    process.send_signal(number)
    process.communicate()
    assert process.returncode in (143, -9)
    result = command("distill", tiny_recipe, "--set", ensemble(checkpoint), "--resume", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["teacher"] == taught[1]["teacher"]
    assert manifest["student_sha256"] == taught[1]["student_sha256"]
    assert not leftovers(home)


def test_its_logits_are_kept_and_terms_on_logits_take_them(
    command: Command, tiny_recipe: Path, taught: tuple[Path, dict[str, Any], str], checkpoint: Path
) -> None:
    home, manifest, _ = taught
    cache = home / "cache"
    members = ("--set", ensemble(checkpoint))
    cached = command(
        *("distill", tiny_recipe, *members, "--set", "teacher.cache.views=1", "--json"),
        cwd=home,
        COMPRESS_CACHE=str(cache),
    )
    assert cached.returncode == 0, cached.stderr
    assert json.loads(cached.stdout)["teacher"]["sha256"] == manifest["teacher"]["sha256"]
    assert len(list(cache.glob("teacher-logits/*/view-0000.npy"))) == 1
    result = command("distill", tiny_recipe, *members, "--set", "supervision.terms=[{name: dkd}]", cwd=home)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        (
            [f"teacher.ensemble=[{{model: resnet10t, {ARGS}}}]"],
            2,
            ["teacher.ensemble.0", "same teacher", "another seed"],
        ),
        (["teacher.ensemble=[{model: resnet10t, seed: 1}, {model: resnet10t, seed: 1}]"], 2, ["teacher.ensemble.1"]),
        (["teacher.ensemble=[{model: resnet10t, args: {widht: 3}}]"], 2, ["timm cannot make", "widht"]),
        (["teacher.ensemble=[resnet10t, resnte18]"], 2, ["no model 'resnte18'", "Did you mean resnet18"]),
        (
            ["teacher.ensemble=[resnet18]", "supervision.terms=[{name: fitnet}]"],
            2,
            ["looks inside one teacher", "leave one out"],
        ),
        (["teacher.ensemble=[{model: resnet18, sede: 1}]"], 2, ["teacher.ensemble.0.sede", "Did you mean seed?"]),
        (["teacher.ensemble=[{model: resnet18, source: checkpoint}]"], 2, ["teacher.ensemble.0", "checkpoint"]),
        (["teacher.ensemble=[{model: resnet18, source: checkpoint, checkpoint: no.pth}]"], 3, ["no weights at no.pth"]),
    ],
)
def test_a_member_that_cannot_be_is_an_error_before_a_teacher_is_trained(
    command: Command, tiny_recipe: Path, tmp_path: Path, settings: list[str], code: int, words: list[str]
) -> None:
    result = command("distill", tiny_recipe, *(part for one in settings for part in ("--set", one)), cwd=tmp_path)
    assert_fails(result, code, *words)
    assert not list(tmp_path.glob("runs/teachers/*"))


def test_a_checkpoint_of_the_teacher_beside_it_is_refused(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    result = command("distill", tiny_recipe, "--set", ensemble(finished / "teacher"), cwd=home)
    assert_fails(result, 2, "teacher.ensemble.1", "same teacher")
