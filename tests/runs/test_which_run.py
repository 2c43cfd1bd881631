"""Which run `--resume` without a folder goes on with."""

from pathlib import Path

import pytest
import torch

from compress import distill
from compress.recipe import Recipe, load_recipe
from compress.runs.folder import Run, new_run
from compress.runs.locks import held
from compress.runs.records import Manifest
from compress.runs.resolve import resolve
from compress.runs.resume import open_run
from compress.system.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def runs(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> dict[int, Run]:
    """Two unfinished runs of one name; that of seed 1 is the newer one, and has begun."""
    monkeypatch.setenv("COMPRESS_RUNS", str(tmp_path / "runs"))
    made = {}
    for seed in (0, 1):
        recipe = resolve(load_recipe(tiny_recipe, overrides=[f"train.seed={seed}"]), CPU)
        made[seed] = make(recipe, started=f"2026-01-0{seed + 1}", student_sha256="s" if seed else None)
    return made


def make(recipe: Recipe, **entries: str | None) -> Run:
    """An unfinished run."""
    run = new_run(recipe, "tiny", None)
    content = {"schema_version": 1, "status": "running", "recipe": "tiny", "method": "kd", "seed": 0, **entries}
    Manifest.model_validate(content).write(run.path / "manifest.json")
    run.write_recipe(recipe)
    return run


def resumed(recipe: Path, *overrides: str) -> Path:
    return open_run(load_recipe(recipe, overrides=list(overrides)), "tiny", None, True, CPU)[0].path


@pytest.mark.parametrize(
    "changed",
    ["benchmark.p90_ms=7", "export.calibration_images=8", "train.keep_checkpoints=3", "data.root=elsewhere"],
)
def test_it_is_the_one_that_trains_the_same_whatever_else_the_recipe_says_now(
    tiny_recipe: Path, runs: dict[int, Run], changed: str
) -> None:
    for seed in (0, 1):
        assert resumed(tiny_recipe, f"train.seed={seed}", changed) == runs[seed].path


def test_a_run_that_another_process_trains_is_taken_only_where_no_other_is_the_same(
    tiny_recipe: Path, runs: dict[int, Run]
) -> None:
    """Then that it is in use is said, and nothing starts from zero."""
    with held(runs[1].path):
        assert resumed(tiny_recipe, "train.seed=1") == runs[1].path
        twin = make(runs[1].recipe, started="2025-01-01")
        assert resumed(tiny_recipe, "train.seed=1") == twin.path


def test_a_recipe_of_another_run_that_cannot_be_read_is_no_matter(tiny_recipe: Path, runs: dict[int, Run]) -> None:
    runs[1].recipe_file.write_text("train: {epochs: none}\n")
    assert resumed(tiny_recipe, "train.seed=0") == runs[0].path


def test_one_that_differs_is_refused_with_what_differs(tiny_recipe: Path, runs: dict[int, Run]) -> None:
    with pytest.raises(UsageError, match=r"the recipe differs from that of .* in train\.seed"):
        resumed(tiny_recipe, "train.seed=2")


def test_a_run_that_has_not_begun_takes_another_recipe_in_its_folder(tiny_recipe: Path, runs: dict[int, Run]) -> None:
    given = load_recipe(tiny_recipe, overrides=["train.seed=3", "train.epochs=1", "teacher.epochs=1"])
    run = distill(given, out=runs[0].path, resume=True)
    assert run.manifest.finished
    assert run.recipe.train.seed == 3


def test_the_run_that_can_be_extended_comes_before_a_newer_one_of_another_recipe(
    tiny_recipe: Path, runs: dict[int, Run]
) -> None:
    assert resumed(tiny_recipe, "train.seed=0", "train.epochs=9") == runs[0].path


def test_a_run_whose_open_settings_do_not_fit_is_no_matter(tiny_recipe: Path, runs: dict[int, Run]) -> None:
    other = load_recipe(tiny_recipe, overrides=["train.epochs=20", "teacher.epochs=20", "train.warmup_epochs=5"])
    make(resolve(other, CPU), started="2026-02-01")
    assert resumed(tiny_recipe, "train.seed=0") == runs[0].path
