"""The Python API: recipes, modules handed over, and students that are loaded again."""

import json
import os
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from compress import distill, load_recipe, load_student
from compress.data import load_data, on_device
from compress.runs import Run
from compress.system.errors import InputError
from compress.training import accuracy, logits_of
from tests.helpers.published import publish


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 6, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)


def test_modules_may_be_handed_over_and_stay_as_they_were(here: Path, tiny_recipe: Path) -> None:
    torch.manual_seed(0)
    teacher, student = Net(), Net()
    before = [value.clone() for value in (*teacher.state_dict().values(), *student.state_dict().values())]
    run = distill(load_recipe(tiny_recipe, method="kd"), teacher=teacher, student=student, out="out")
    after = [*teacher.state_dict().values(), *student.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert run.manifest["teacher"]["source"] == "module"
    trained = load_student(run, model=Net())
    assert not torch.equal(trained.state_dict()["layers.0.weight"], student.state_dict()["layers.0.weight"])
    with pytest.raises(InputError, match="load_student"):
        load_student("out")
    assert not (here / "runs" / "teachers").exists()


def test_a_module_of_other_classes_is_refused(here: Path, tiny_recipe: Path) -> None:
    for role in ("teacher", "student"):
        with pytest.raises(InputError, match=rf"the {role} has outputs of shape \[5\].* 3 classes"):
            distill(load_recipe(tiny_recipe), out=role, **{role: Net(5)})


class Mute(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise ValueError


def test_a_module_that_fails_without_a_word_is_refused_in_words(here: Path, tiny_recipe: Path) -> None:
    with pytest.raises(InputError, match=r"the student does not take images of 8 pixels \(ValueError\)"):
        distill(load_recipe(tiny_recipe), out="out", student=Mute())


def test_the_manifest_reads_as_the_dictionary_that_it_was(finished: Path) -> None:
    manifest = Run(finished).manifest
    content = json.loads((finished / "manifest.json").read_text())
    assert manifest["student_top1"] == content["student_top1"]
    assert manifest["teacher"]["sha256"] == content["teacher"]["sha256"]
    with pytest.raises(KeyError, match="nonsense"):
        manifest["nonsense"]


def test_a_student_whose_weights_were_altered_is_refused(here: Path, finished: Path, tmp_path: Path) -> None:
    import shutil

    assert load_student(finished).training is False
    shutil.copytree(finished, tmp_path / "run")
    weights = tmp_path / "run" / "student" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    os.unlink(weights)
    weights.write_bytes(content)
    with pytest.raises(InputError, match="altered"):
        load_student(tmp_path / "run")


def test_the_newest_finished_run_is_found(finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from compress.runs.folder import finished_run

    monkeypatch.chdir(finished.parents[1])
    assert finished_run(None).manifest["status"] == "finished"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no finished run"):
        finished_run(None)


def test_a_timm_model_handed_over_beside_published_weights_is_saved_with_the_mean_that_it_got(
    here: Path, tiny_recipe: Path
) -> None:
    small = {"channels": [8, 8, 8, 8]}
    publish("resnet10t", here / "published", args=small, crop_pct=1.0, interpolation="bicubic")
    student = f"student={{model: resnet10t, pretrained: {here / 'published'}}}"
    recipe = load_recipe(tiny_recipe, method="ce", overrides=[student, "train.lr=0.001", "data.image_size=32"])
    torch.manual_seed(0)
    teacher = timm.create_model("resnet10t", num_classes=3, **small)
    run = distill(recipe, teacher=teacher, out="out")
    data = load_data(recipe.data)
    config = json.loads((run.teacher / "config.json").read_text())["pretrained_cfg"]
    assert (config["mean"], config["std"]) == (list(data.own_mean), list(data.own_std))
    images = on_device(data, torch.device("cpu")).evaluation
    top1 = accuracy(logits_of(teacher, images), images.labels).top1
    assert run.result.teacher_top1 == top1
    assert teacher.pretrained_cfg["mean"] == (0.485, 0.456, 0.406)  # the caller's stays as it was
