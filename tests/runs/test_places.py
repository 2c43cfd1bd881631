"""Relative places of data and weights are those of the folder where a run was begun, wherever one works."""

import shutil
from pathlib import Path

import pytest

from compress.recipe import Recipe, load_recipe
from compress.runs import distill
from compress.runs.data import data_of_student
from compress.runs.folder import Run
from tests.helpers.pictures import write_images
from tests.helpers.published import publish

SMALL = {"channels": [8, 8, 8, 8]}
PUBLISHED = "{model: resnet10t, pretrained: weights}"


@pytest.fixture
def project(here: Path, folder_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with pictures in several layouts and weights beside them."""
    project = here / "project"
    shutil.copytree(folder_data, project / "photos")
    for number, name in enumerate(("dark", "light")):
        write_images(project / "classes" / name, 20, seed=number, shade=120 * number)
    publish("resnet10t", project / "weights", args=SMALL, mean=(0.1, 0.2, 0.3), crop_pct=1.0)
    publish("resnet10t", project / "taught", args={**SMALL, "num_classes": 3}, seed=1)
    monkeypatch.chdir(project)
    return project


def goes_on(recipe: Path, overrides: list[str], elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is begun here and extended in another folder, without its teacher: as if it had never moved."""

    def of(epochs: int) -> Recipe:
        return load_recipe(recipe, method="kd", overrides=[*overrides, f"train.epochs={epochs}", "teacher.epochs=1"])

    out = Path.cwd() / "run"
    distill(of(1), out=out)
    copy = shutil.copytree(out, out.with_name("stayed"))
    stayed = distill(of(2), out=copy, resume=True).manifest.student_sha256
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    shutil.rmtree(out / "teacher")
    moved = distill(of(2), out=out, resume=True)
    assert moved.manifest.student_sha256 == stayed
    assert data_of_student(Run(out)).sha256 == moved.result.data.sha256
    assert moved.recipe == Run(copy).recipe  # places stay as they were written


@pytest.mark.parametrize(
    "places",
    [
        ["data={name: folder, root: classes, holdout: 0.2, image_size: 8}"],
        ["data.root=photos", f"student={PUBLISHED}"],
        ["data.root=photos", "student={model: 'local-dir:weights', pretrained: true}"],
        ["data.root=photos", "teacher={model: resnet10t, source: finetune, weights: weights}"],
        ["data.root=photos", "teacher={model: resnet10t, args: {channels: [8, 8, 8, 8]}, stem: stock, "
         "source: checkpoint, checkpoint: taught}"],
    ],
    ids=["classes without splits", "student", "local-dir", "fine-tuned teacher", "checkpoint"],
)  # fmt: skip
def test_a_run_goes_on_in_another_folder_with_its_data_and_weights(
    project: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: list[str]
) -> None:
    goes_on(tiny_recipe, places, tmp_path / "elsewhere", monkeypatch)


def test_a_local_folder_of_the_hub_is_found_again(
    project: Path, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for split in ("train", "validation"):
        for number, name in enumerate(("ant", "bee")):
            write_images(project / "repo" / split / name, 6, seed=number, shade=100 * number)
    goes_on(tiny_recipe, ["data={name: hub, repo: repo, image_size: 8}"], tmp_path / "elsewhere", monkeypatch)
