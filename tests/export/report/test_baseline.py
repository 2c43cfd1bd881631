"""Whether plain training would have done: found among the runs beside, by what their recipes and manifests say."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.runs.folder import Run
from export.report.baseline import plain_training

RECIPE: dict[str, Any] = {
    "data": {"name": "digits"},
    "teacher": {"model": "resnet18"},
    "student": {"model": "resnet10t", "pretrained": True},
    "supervision": {"method": "kd"},
    "train": {"epochs": 3, "seed": 1},
}
MANIFEST: dict[str, Any] = {
    "schema_version": 1,
    "status": "finished",
    "recipe": "photos",
    "teacher_top1": 0.9,
    "student_balanced_top1": 0.8,
    "student_sha256": "s",
    "teacher": {"source": "train", "sha256": "t", "data": "d", "top1": 0.9, "balanced_top1": 0.9},
    "data": {
        "name": "digits",
        "sha256": "d",
        "num_classes": 10,
        "train_images": 5,
        "eval_images": 5,
        "eval_split": "val",
    },
}


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def run(name: str, top1: float, recipe: dict[str, Any] | None = None, **manifest: Any) -> Run:
        content = {key: {**value, **(recipe or {}).get(key, {})} for key, value in RECIPE.items()}
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        (folder / "manifest.json").write_text(json.dumps({**MANIFEST, "student_top1": top1, **manifest}))
        return Run(folder)

    return run


CE = {"supervision": {"method": "ce"}}


def test_without_such_a_run_it_names_the_command(make: Any) -> None:
    assert "compress distill photos --method ce" in plain_training(make("kd", 0.84))


def test_the_run_with_the_same_seed_is_compared(make: Any) -> None:
    one = make("kd", 0.84)
    make("ce-1", 0.815, CE)
    make("ce-2", 0.5, {**CE, "train": {"epochs": 3, "seed": 2}})
    said = plain_training(one)
    assert "fine-tuned by labels alone: top-1 81.50 % (with the same seed)" in said
    assert "84.00 %, +2.50 points" in said


def test_runs_with_other_seeds_count_by_their_mean(make: Any) -> None:
    one = make("kd", 0.8)
    make("ce-2", 0.81, {**CE, "train": {"epochs": 3, "seed": 2}})
    make("ce-3", 0.83, {**CE, "train": {"epochs": 3, "seed": 3}})
    assert "82.00 % (mean of 2 seeds). This one: 80.00 %, -2.00 points" in plain_training(one)


@pytest.mark.parametrize(
    "other",
    [
        {"train": {"epochs": 4, "seed": 1}},
        {"student": {"model": "resnet14t", "pretrained": True}},
        {"student": {"model": "resnet10t", "pretrained": False}},
        {"supervision": {"method": "ce", "terms": [{"name": "fitnet"}]}},
    ],
)
def test_runs_that_differ_in_more_than_labels_do_not_count(make: Any, other: dict[str, Any]) -> None:
    one = make("kd", 0.8)
    make("other", 0.99, {**CE, **other})
    assert "Not measured" in plain_training(one)


def test_unfinished_damaged_and_other_data_do_not_count(make: Any, tmp_path: Path) -> None:
    one = make("kd", 0.8)
    make("running", 0.99, CE, status="running")
    make("data", 0.99, CE, data={**MANIFEST["data"], "sha256": "e"})
    damaged = make("damaged", 0.99, CE)
    damaged.recipe_file.write_text("{")
    shutil.copytree(damaged.path, tmp_path / "copy")
    assert "Not measured" in plain_training(one)


def test_neighbours_that_cannot_be_read_are_passed_over(make: Any, tmp_path: Path) -> None:
    one = make("kd", 0.8)
    (tmp_path / "link").symlink_to("n" * 300)  # a name that no file system takes: looking at it fails for root, too
    make("ce", 0.75, CE)
    unread = make("unread", 0.9, CE)
    unread.recipe_file.unlink()
    unread.recipe_file.mkdir()
    assert "top-1 75.00 % (with the same seed)" in plain_training(one)


def test_a_run_by_labels_alone_needs_no_answer(make: Any) -> None:
    assert plain_training(make("ce", 0.8, CE)) == ""


@pytest.mark.parametrize("name", ["recipe.yaml", "manifest.json"])
def test_a_folder_with_the_benchmark_alone_has_no_answer(make: Any, name: str) -> None:
    run = make("kd", 0.8)
    (run.path / name).unlink()
    assert plain_training(run) == ""
