"""Assistants of a teacher that was handed over: kept by its weights."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch

from compress import distill, load_recipe
from compress.data import load_data
from compress.models import create_model
from compress.runs.assistants import check_assistants
from compress.runs.folder import Run

CHAIN = "teacher.assistants=[{model: resnet10t, args: {channels: [8, 8, 16, 8]}}]"


@pytest.mark.slow
def test_teachers_of_other_weights_have_other_assistants(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(tiny_recipe, overrides=[CHAIN, "train.epochs=1"])
    folders = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        teacher = timm.create_model("resnet10t_smallstem", num_classes=3, channels=[8, 8, 16, 16])
        run = distill(recipe, teacher=teacher)
        (assistant,) = run.manifest["assistants"]
        assert Run(Path(assistant["run"])).manifest["teacher"]["sha256"] == run.manifest["teacher"]["sha256"]
        folders.append(assistant["run"])
    assert folders[0] == folders[2] != folders[1]
    assert json.loads((tmp_path / folders[0] / "manifest.json").read_text())["teacher"]["source"] == "module"


@pytest.mark.parametrize(("channels", "warned"), [([8, 8, 16, 12], False), ([8, 8, 16, 24], True)])
def test_beside_an_ensemble_an_assistant_is_compared_with_the_largest_model(
    tiny_recipe: Path, caplog: pytest.LogCaptureFixture, channels: list[int], warned: bool
) -> None:
    """Both are smaller than the two teachers together."""
    recipe = load_recipe(
        tiny_recipe,
        overrides=[
            "teacher.ensemble=[{model: resnet10t, args: {channels: [8, 8, 8, 16]}}]",
            f"teacher.assistants=[{{model: resnet10t, args: {{channels: {channels}}}}}]",
        ],
    )
    data = load_data(recipe.data)
    student = create_model(recipe.student, num_classes=data.num_classes, image_size=data.image_size)
    check_assistants(recipe, data, None, student)
    words = "assistant 1, resnet10t, has more parameters than the largest model of the teacher"
    assert (words in caplog.text) == warned


@pytest.mark.slow
def test_a_teacher_that_sees_pictures_in_another_way_has_other_assistants(
    here: Path, finished: Path, tiny_recipe: Path
) -> None:
    """Its weights are the same. What it says is not: its config.json names another mean."""
    weights = here / "weights" / "teacher.safetensors"
    weights.parent.mkdir()
    shutil.copy(finished / "teacher" / "model.safetensors", weights)
    args = "{channels: [8, 8, 16, 16]}"
    teacher = f"{{model: resnet10t, args: {args}, source: checkpoint, checkpoint: {weights}, "
    chain = "assistants: [{model: resnet10t, args: {channels: [8, 8, 16, 8]}}]}"
    recipe = load_recipe(tiny_recipe, overrides=[f"teacher={teacher}{chain}", "train.epochs=1"])
    folders = []
    for number, mean in enumerate((0.5, 0.52, 0.5)):
        config = {"pretrained_cfg": {"mean": [mean] * 3, "std": [0.25] * 3}}
        (weights.parent / "config.json").write_text(json.dumps(config))
        folders.append(distill(recipe, out=f"out-{number}").manifest["assistants"][0]["run"])
    assert folders[0] == folders[2] != folders[1]
