"""The real command with pictures without labels and with mixed pictures: what it says, keeps, and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import Command, assert_fails, metrics, weights
from tests.helpers.pictures import write_images

MIXING = "data.augment={crop: 1, erase: 0.3, mixup: 0.4, cutmix: 1.0}"


@pytest.fixture
def more(tmp_path: Path, folder_data: Path) -> Path:
    """Forty pictures, of which three are evaluated on."""
    write_images(tmp_path / "more" / "deep", 37, seed=60, shade=90)
    for number, name in enumerate(("dark", "grey", "light")):
        shutil.copy(folder_data / "val" / name / "000.png", tmp_path / "more" / f"{number}.png")
    return tmp_path / "more"


def run_of(command: Command, recipe: Path, home: Path, *settings: str, code: int = 0) -> Any:
    home.mkdir(exist_ok=True)
    options = [part for setting in settings for part in ("--set", setting)]
    result = command("distill", recipe, "--json", *options, cwd=home)
    assert result.returncode == code, result.stderr
    return result


@pytest.mark.slow
@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_a_run_with_them_differs_says_so_and_is_exported_without_them(
    command: Command, tiny_recipe: Path, tmp_path: Path, more: Path, loader: str
) -> None:
    plain = run_of(command, tiny_recipe, tmp_path / "plain", f"data.loader={loader}")
    result = run_of(command, tiny_recipe, tmp_path / "used", f"data.loader={loader}", f"data.unlabeled={more}")
    assert "student: 0.0 M parameters, 2 epochs of 9 steps" in result.stderr  # a half of each batch has labels
    assert "unlabeled: 37 pictures" in result.stderr
    assert "3 more are left out" in result.stderr
    assert "37 without a label" in result.stderr
    used, other = json.loads(result.stdout), json.loads(plain.stdout)
    assert used["data"]["train_images"] == other["data"]["train_images"] == 72
    assert used["data"]["unlabeled_images"] == 37
    assert used["data"]["sha256"] == other["data"]["sha256"]
    assert used["student_sha256"] != other["student_sha256"]
    assert used["teacher"]["sha256"] == other["teacher"]["sha256"]
    shutil.move(more, tmp_path / "gone")
    exported = command("export", Path(used["run"]), cwd=tmp_path / "used")
    assert exported.returncode == 0, exported.stderr


@pytest.mark.slow
def test_the_teacher_learns_from_mixed_pictures_and_an_extended_run_ends_at_the_same_bits(
    command: Command, tiny_recipe: Path, tmp_path: Path, more: Path
) -> None:
    settings = [MIXING, f"data.unlabeled={more}", "data.unlabeled_share=0.25"]
    home = tmp_path / "extended"
    run_of(command, tiny_recipe, home, *settings, "train.epochs=1", "train.schedule=constant")
    fixed = run_of(command, tiny_recipe, tmp_path / "constant", *settings, "train.schedule=constant")
    result = command(
        *("distill", tiny_recipe, "--resume", "--out", *home.glob("runs/tiny*")),
        *(part for one in [*settings, "train.schedule=constant"] for part in ("--set", one)),
        cwd=home,
    )
    assert result.returncode == 0, result.stderr
    assert weights(home) == weights(tmp_path / "constant")
    lines = metrics(tmp_path / "constant" / json.loads(fixed.stdout)["run"])
    assert {line["phase"] for line in lines} == {"teacher", "student"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["data.unlabeled=MORE", "supervision.method=ce"], ["supervision.method ce needs labels"]),
        (["data.unlabeled=MORE", "supervision={method: ce, terms: [{name: dkd}]}"], ["ce with dkd needs labels"]),
        (["data.unlabeled=MORE", "teacher.cache={views: 2}", MIXING], ["teacher.cache keeps one mixed pair"]),
        (["data.augment.auto=trivial", "data.loader=resident"], ["data.augment.auto needs data.loader: stream"]),
        (
            ["data.augment.color_jitter=0.4", "data.loader=resident"],
            ["data.augment.color_jitter needs data.loader: stream"],
        ),
        (["data.augment.auto=rand-x9"], ["data.augment.auto"]),
        (["data.augment.mixup=-1"], ["data.augment.mixup"]),
        (["data.unlabeled_share=1"], ["data.unlabeled_share"]),
    ],
)
def test_what_has_no_meaning_is_refused(
    command: Command, tiny_recipe: Path, tmp_path: Path, more: Path, settings: list[str], words: list[str]
) -> None:
    options = [part for one in settings for part in ("--set", one.replace("MORE", str(more)))]
    assert_fails(command("distill", tiny_recipe, *options, cwd=tmp_path), 2, *words)


@pytest.mark.slow
def test_kept_views_know_the_mixing_and_the_pictures_without_labels(
    command: Command, tiny_recipe: Path, tmp_path: Path, more: Path
) -> None:
    cache = {"COMPRESS_CACHE": str(tmp_path / "cache")}
    for settings in ([MIXING], [MIXING, "train.batch_size=24"], [f"data.unlabeled={more}"], [MIXING]):
        options = [part for one in ["teacher.cache={views: 1}", *settings] for part in ("--set", one)]
        result = command("distill", tiny_recipe, *options, cwd=tmp_path, **cache)
        assert result.returncode == 0, result.stderr
    kept = list((tmp_path / "cache" / "teacher-logits").glob("*/"))
    assert len(kept) == 3


@pytest.mark.slow
def test_a_moved_folder_is_no_other_recipe(command: Command, tiny_recipe: Path, tmp_path: Path, more: Path) -> None:
    run = json.loads(run_of(command, tiny_recipe, tmp_path / "home", f"data.unlabeled={more}").stdout)["run"]
    shutil.move(more, tmp_path / "moved")
    again = command(
        *("distill", tiny_recipe, "--resume", "--out", run, "--set", f"data.unlabeled={tmp_path / 'moved'}"),
        *("--set", "train.epochs=3"),
        cwd=tmp_path / "home",
    )
    assert again.returncode == 0, again.stderr
    assert [line["epoch"] for line in metrics(tmp_path / "home" / run) if line["phase"] == "student"] == [0, 1, 2]
