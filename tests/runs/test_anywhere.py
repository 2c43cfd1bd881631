"""Runs in the surroundings that people have: other folders, other GPUs, limits that change after the training."""

import shutil
from pathlib import Path

import pytest
import torch

from compress.recipe import Student, load_recipe
from compress.runs import distill
from compress.runs.data import data_of_student, data_of_teacher, loaded_data
from compress.runs.folder import Run, finished_run, new_run, read_manifest
from compress.runs.precision import fast_precision
from compress.system.errors import InputError, MachineError, UsageError
from compress.training.memo import Memo
from tests.helpers.pictures import write_images
from tests.helpers.published import publish


@pytest.fixture
def begun(here: Path, folder_data: Path, tiny_recipe: Path) -> Path:
    """A project folder with data/ and a finished run whose recipe has a relative data.root. It is not worked in."""
    shutil.copytree(folder_data, here / "project" / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "project")
        distill(load_recipe(tiny_recipe, overrides=["data.root=photos", "train.epochs=1"]), out="run")
    return here / "project" / "run"


def test_a_run_with_a_relative_root_works_from_any_folder(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(begun)
    assert data_of_student(run).sha256 == run.result.data.sha256
    assert data_of_teacher(run).sha256 == run.result.teacher.data
    moved = begun.parent.rename(begun.parents[1] / "moved")  # run and data together
    monkeypatch.chdir(moved)
    assert data_of_student(Run(moved / "run")).sha256 == run_sha256(moved / "run")
    monkeypatch.chdir("/")
    with pytest.raises(InputError, match="photos"):
        data_of_student(Run(moved / "run"))


def test_the_pictures_of_a_run_are_those_below_the_folder_in_which_it_was_begun(
    begun: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where one works now, other pictures lie under the same name."""
    shutil.copytree(begun.parent / "photos", tmp_path / "photos")
    for path in sorted((tmp_path / "photos").rglob("*.png"))[::2]:
        path.unlink()
    monkeypatch.chdir(tmp_path)
    assert data_of_student(Run(begun)).sha256 == run_sha256(begun)


def test_a_run_goes_on_from_any_folder(begun: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run_sha256(begun)
    monkeypatch.chdir("/")
    longer = load_recipe(tiny_recipe, overrides=["data.root=photos", "train.epochs=2"])
    run = distill(longer, out=begun, resume=True)
    assert run.result.data.sha256 == before
    assert run.recipe.data.root == "photos"
    assert run.manifest.working_folder == str(begun.parent)


def test_a_saved_student_sees_pictures_as_its_published_weights_do(
    here: Path, folder_data: Path, tiny_recipe: Path
) -> None:
    small = {"channels": [8, 8, 8, 8]}
    publish("resnet10t", here / "published", args=small, mean=(0.1, 0.2, 0.3), crop_pct=0.5)
    student = f"student={{model: resnet10t, pretrained: {here / 'published'}}}"
    options = [student, f"data.root={folder_data}", "train.epochs=1", "data.image_size=32"]
    run = distill(load_recipe(tiny_recipe, method="ce", overrides=options), out="run")
    seen = data_of_student(run)
    assert seen.mean == pytest.approx((0.1, 0.2, 0.3))
    assert seen.sha256 == run.result.data.sha256


def test_a_student_of_random_weights_does_not_see_as_its_published_namesake(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, overrides=["student={model: inception_v3}"])  # timm: mean 0.5
    dataset, _ = loaded_data(recipe, torch.device("cpu"), Memo())
    assert dataset.mean == dataset.own_mean


def test_a_recipe_that_skips_bad_images_does_so_among_those_without_labels(tiny_recipe: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "more", 120, seed=51, shade=170)
    (tmp_path / "more" / "bad.png").write_bytes(b"no picture")
    options = [f"data.unlabeled={tmp_path / 'more'}"]
    with pytest.raises(InputError, match=r"bad\.png.*data\.on_bad_image: skip"):
        loaded_data(load_recipe(tiny_recipe, overrides=options), torch.device("cpu"), Memo())
    recipe = load_recipe(tiny_recipe, overrides=[*options, "data.on_bad_image=skip"])
    dataset, _ = loaded_data(recipe, torch.device("cpu"), Memo())
    assert dataset.unlabeled == 120
    assert list(dataset.left_out) == [str(tmp_path / "more" / "bad.png")]


def run_sha256(path: Path) -> str:
    return Run(path).result.data.sha256


def test_limits_may_change_where_a_run_is_resumed_and_count_from_then_on(begun: Path, tiny_recipe: Path) -> None:
    weights, before = Run(begun).manifest.student_sha256, Run(begun).recipe
    changes = ["export.max_int8_top1_drop=0.1", "benchmark.p90_ms=3.0"]
    root = [f"data.root={begun.parent / 'photos'}", "train.epochs=1"]
    run = distill(load_recipe(tiny_recipe, overrides=[*root, *changes]), out=begun, resume=True)
    assert run.manifest.student_sha256 == weights
    assert (run.recipe.export.max_int8_top1_drop, run.recipe.benchmark.p90_ms) == (0.1, 3.0)
    assert run.manifest.recipe_sha256 == run.recipe.sha256 != before.sha256
    assert (run.recipe.data, run.recipe.train) == (before.data, before.train)
    longer = distill(load_recipe(tiny_recipe, overrides=[*root, "train.epochs=2"]), out=begun, resume=True)
    assert longer.recipe.benchmark == before.benchmark
    assert longer.manifest.student_sha256 != weights
    for key in ("train.lr", "teacher.train.lr"):
        with pytest.raises(UsageError, match=key.replace(".", r"\.")):
            distill(load_recipe(tiny_recipe, overrides=[*root, *changes, f"{key}=0.1"]), out=begun, resume=True)
    housekeeping = ["teacher.train.keep_checkpoints=3", "train.keep_checkpoints=3", "train.epochs=2"]
    again = distill(load_recipe(tiny_recipe, overrides=[*root, *housekeeping]), out=begun, resume=True)
    assert again.manifest.student_sha256 == longer.manifest.student_sha256


def test_a_file_where_a_run_is_expected_is_said_to_be_one(tmp_path: Path, tiny_recipe: Path) -> None:
    file = tmp_path / "student.onnx"
    file.touch()
    for read in (read_manifest, finished_run):
        with pytest.raises(InputError, match="is a file, and a run is a folder"):
            read(file)
    with pytest.raises(MachineError, match="is a file, and a run is a folder"):
        new_run(load_recipe(tiny_recipe), "tiny", file)


@pytest.mark.parametrize(
    ("major", "precision"), [(7, "fp32"), (8, "bf16"), (9, "bf16")], ids=["V100, T4", "A100", "H100"]
)
def test_a_gpu_without_bf16_trains_in_fp32(monkeypatch: pytest.MonkeyPatch, major: int, precision: str) -> None:
    class Properties:
        pass

    Properties.major = major  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)  # older GPUs emulate it, slowly
    assert fast_precision(Student(model="resnet18"), 32, torch.device("cuda")) == precision
