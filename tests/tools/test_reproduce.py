"""The real reproduce.py: stopped by its budget and carried elsewhere, it ends at the bits of one that was not."""

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import run as study_run
import torch
import yaml
from PIL import Image
from plan import load_study
from scipy.stats import ttest_rel
from state import State

from compress.data import load_data
from compress.recipe import Data
from tests.helpers.command import assert_fails
from tests.helpers.studies import SMOKE, reproduce, runs

pytestmark = pytest.mark.slow


def index(state: Path) -> dict[str, Any]:
    return json.loads((state / "state.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the smoke study ran in one go."""
    home = tmp_path_factory.mktemp("whole")
    result = reproduce(cwd=home)
    assert result.returncode == 0, result.stderr
    return home


def test_a_study_that_its_budget_stops_goes_on_from_the_state_alone_to_the_same_bits(
    whole: Path, tmp_path: Path
) -> None:
    minutes, calls, unfinished, epochs = 0.1, 0, 0, 0
    while True:
        home = tmp_path / str(calls)
        home.mkdir()
        if calls:
            shutil.copytree(tmp_path / str(calls - 1) / "runs/smoke-state", home / "carried")
        state = home / "runs/smoke-state"
        state.parent.mkdir()
        if calls:
            (home / "carried").rename(state)
        result = reproduce("--resume", "--budget-minutes", minutes, cwd=home)
        assert result.returncode == 0, result.stderr
        calls += 1
        epochs += len(re.findall(r"(?:student|teacher) \d+/\d+  loss", result.stderr))
        if "the budget is spent" not in result.stderr:
            break
        assert "left: " in result.stderr
        unfinished += sum(unit["progress"] != "finished" for unit in index(state)["units"].values())
        minutes *= 1.5
    assert calls > 1
    assert unfinished > 0
    assert epochs == 2 * 3 + 6 * 1 + 12 * 3  # of teachers, tuning and final runs: none was done twice
    expected, found = runs(whole), runs(home)
    assert len(expected) == 12
    for name, run in expected.items():
        for key in ("student_sha256", "teacher_sha256", "recipe_sha256", "data_sha256", "student_top1"):
            assert found[name][key] == run[key], name
        assert found[name]["measures"] == run["measures"]


def test_every_arm_is_tuned_on_held_out_training_images_and_never_on_the_official_split(whole: Path) -> None:
    for path in (whole / "runs/smoke").iterdir():
        recipe = yaml.safe_load((path / "recipe.yaml").read_text())
        data = json.loads((path / "manifest.json").read_text())["data"]
        tuning = path.name.startswith("tune-")
        assert recipe["data"]["holdout"] == (0.1 if tuning else 0)
        assert data["eval_split"] == ("0.1 of train, held out" if tuning else "every fifth image")
        assert recipe["teacher"]["source"] == "checkpoint"
        assert (recipe["train"]["epochs"], recipe["train"]["seed"] == 100) == (1 if tuning else 3, tuning)
    tried = json.loads((whole / "runs/smoke-results/smoke.json").read_text())["tuning"]["arms"]
    assert {arm: len(rows) for arm, rows in tried.items()} == {"ce": 2, "kd": 2, "ka+dtd": 2}
    for arm, rows in tried.items():
        manifests = [whole / f"runs/smoke/tune-{arm}-{number}-s100/manifest.json" for number in range(2)]
        top1 = [json.loads(path.read_text())["student_top1"] for path in manifests]
        assert [row["mean"] for row in rows] == top1
        assert [row["chosen"] for row in rows] == [n == int(np.argmax(top1)) for n in range(2)]
        final = yaml.safe_load((whole / f"runs/smoke/noisy-{arm}-s1/recipe.yaml").read_text())
        for key, value in rows[int(np.argmax(top1))]["values"].items():
            for part in key.split("."):
                final = final[part]
            assert final == value


def test_one_teacher_that_never_saw_the_held_out_images_serves_a_setting(whole: Path) -> None:
    folders: dict[str, set[str]] = {}
    for path in (whole / "runs/smoke").iterdir():
        setting = "clean" if path.name.startswith("tune-") else path.name.split("-")[0]
        recipe = yaml.safe_load((path / "recipe.yaml").read_text())
        folders.setdefault(setting, set()).add(recipe["teacher"]["checkpoint"])
    held = {setting: whole / folder.pop() for setting, folder in folders.items() if len(folder) == 1}
    assert set(held) == {"clean", "noisy"}
    teachers = {path.name for path in (whole / "runs/teachers").iterdir()}
    assert teachers == {path.parent.name for path in held.values()}
    for setting, path in held.items():
        data = Data(name="digits", image_size=8, holdout=0.1, label_noise=0.4 if setting == "noisy" else 0.0)
        assert json.loads((path / "facts.json").read_text())["data"] == load_data(data).sha256


def test_its_table_is_that_of_an_independent_paired_test(whole: Path) -> None:
    content = json.loads((whole / "runs/smoke-results/smoke.json").read_text())
    for setting in content["settings"].values():
        top1 = {(run["arm"], run["seed"]): run["student_top1"] for run in setting["runs"]}
        p_values = {}
        for arm in setting["comparison"]["arms"]:
            each = [top1[arm["name"], seed] for seed in (0, 1)]
            assert arm["mean"] == pytest.approx(np.mean(each))
            assert arm["sd"] == pytest.approx(np.std(each, ddof=1))
            if arm["name"] != "kd":
                kd = [top1["kd", seed] for seed in (0, 1)]
                assert arm["difference"]["mean"] == pytest.approx(np.mean(np.subtract(each, kd)))
                p_values[arm["name"]] = ttest_rel(each, kd).pvalue
                assert arm["difference"]["p"] == pytest.approx(p_values[arm["name"]])
                assert arm["difference"]["holm_p"] >= arm["difference"]["p"]
    text = (whole / "runs/smoke-results/smoke.md").read_text()
    assert "tools/study/reproduce.py tools/study/smoke.yaml`" in text
    for name in ("differences", "measures", "temperature", "adjusted", "confusion"):
        with Image.open(whole / f"runs/smoke-results/smoke-{name}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20


def test_the_state_is_small_files_with_their_hashes(whole: Path) -> None:
    state = whole / "runs/smoke-state"
    named = set()
    for name, unit in index(state)["units"].items():
        assert unit["progress"] == "finished"
        for path, entry in unit["files"].items():
            named |= set(entry["parts"])
            content = b"".join((state / "parts" / part).read_bytes() for part in entry["parts"])
            assert hashlib.sha256(content).hexdigest() == entry["sha256"]
            assert content == (whole / "runs" / name / path).read_bytes()
    assert named == {path.name for path in (state / "parts").iterdir()}
    assert max(path.stat().st_size for path in state.rglob("*")) <= 15_000_000


def test_a_state_that_is_there_is_refused_without_resume(whole: Path) -> None:
    assert_fails(reproduce(cwd=whole), 4, "smoke-state", "--resume")


@pytest.mark.parametrize("damage", ["a part is altered", "a part is gone", "the index is cut", "a path leads outside"])
def test_a_damaged_state_is_refused_and_nothing_is_run(whole: Path, tmp_path: Path, damage: str) -> None:
    state = tmp_path / "state"
    shutil.copytree(whole / "runs/smoke-state", state)
    part = max((state / "parts").iterdir(), key=lambda path: path.stat().st_size)
    content = index(state)
    if damage == "a part is altered":
        flipped = bytearray(part.read_bytes())
        flipped[len(flipped) // 2] ^= 1
        part.write_bytes(flipped)
    elif damage == "a part is gone":
        part.unlink()
    elif damage == "the index is cut":
        (state / "state.json").write_text(json.dumps(content)[:-20])
    else:
        files = next(iter(content["units"].values()))["files"]
        files["../../../outside"] = next(iter(files.values()))
        (state / "state.json").write_text(json.dumps(content))
    result = reproduce("--resume", "--state", state, cwd=tmp_path / "home")
    assert_fails(result, 3, "damaged")
    assert not (tmp_path / "home/runs").exists()
    assert not (tmp_path / "outside").exists()


def test_the_state_of_another_study_is_refused_but_seeds_may_be_added(whole: Path, tmp_path: Path) -> None:
    study = yaml.safe_load(SMOKE.read_text())
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**study, "baseline": "ce"}))
    state = whole / "runs/smoke-state"
    assert_fails(reproduce("--resume", "--state", state, cwd=tmp_path, study=other), 3, "another study")
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({**study, "seeds": [0, 1, 2]}))
    shutil.copytree(state, tmp_path / "state")
    arguments = ("--resume", "--state", tmp_path / "state", "--setting", "clean")
    result = reproduce(*arguments, cwd=tmp_path, study=more)
    assert result.returncode == 0, result.stderr
    assert set(runs(tmp_path, "smoke-clean")) == {
        f"clean-{arm}-s{seed}" for arm in ("ce", "kd", "ka+dtd") for seed in (0, 1, 2)
    }


def test_an_arm_that_diverges_is_a_result_and_is_not_tried_again(tmp_path: Path) -> None:
    study = yaml.safe_load(SMOKE.read_text())
    study["arms"] = [{"name": "kd", "method": "kd"}, {"name": "wild", "method": "kd", "set": {"train.lr": 1e30}}]
    study["tune"]["grid"] = {"kd": [{}], "wild": [{}]}
    study |= {"settings": {"clean": {}}, "seeds": [0]}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    first = reproduce(cwd=tmp_path, study=path)
    assert first.returncode == 0, first.stderr
    assert "clean-wild-s0 failed: " in first.stderr
    assert set(runs(tmp_path)) == {"clean-kd-s0"}
    assert "| wild | \u2013 | failed |" in (tmp_path / "runs/smoke-results/smoke.md").read_text()
    again = reproduce("--resume", cwd=tmp_path, study=path)
    assert again.returncode == 0, again.stderr
    assert not re.search(r"in lockstep|left: | 1/3  loss|failed", again.stderr), again.stderr


def test_a_study_without_final_seeds_is_a_search_that_never_looks_at_the_official_split(tmp_path: Path) -> None:
    study = yaml.safe_load(SMOKE.read_text())
    study["tune"]["seeds"], study["seeds"] = [100, 101], []
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    result = reproduce(cwd=tmp_path, study=path)
    assert result.returncode == 0, result.stderr
    assert "left: " not in result.stderr
    manifests = {path.parent.name: path for path in (tmp_path / "runs/smoke").glob("*/manifest.json")}
    top1 = {name: json.loads(path.read_text())["student_top1"] for name, path in manifests.items()}
    arms = ("ce", "kd", "ka+dtd")
    assert set(top1) == {f"tune-{arm}-{number}-s{seed}" for arm in arms for number in (0, 1) for seed in (100, 101)}
    assert len(list((tmp_path / "runs/teachers").iterdir())) == 1
    results = tmp_path / "runs/smoke-results"
    assert sorted(each.name for each in results.iterdir()) == ["smoke.json", "smoke.md"]
    table = (results / "smoke.md").read_text()
    for arm in arms:
        less = [100 * (top1[f"tune-{arm}-1-s{seed}"] - top1[f"tune-{arm}-0-s{seed}"]) for seed in (100, 101)]
        row = next(line for line in table.splitlines() if line.startswith(f"| {arm} | `") and "%" in line)
        assert [float(value) for value in row.split("|")[4].split(",")] == pytest.approx(less, abs=0.006)
    ((device, versions),) = json.loads((results / "smoke.json").read_text())["made_with"]
    assert f"- {device}: " in table
    assert f"torch {versions['torch']}" in table


def test_a_teacher_of_the_same_recipe_with_other_bits_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "runs", tmp_path / "runs")
    for facts in (tmp_path / "runs/teachers").glob("*/model/facts.json"):
        facts.write_text(json.dumps(json.loads(facts.read_text()) | {"sha256": "0" * 64}))
    assert_fails(reproduce("--resume", cwd=tmp_path), 3, "another teacher", "Remove that teacher")


def test_the_teacher_of_a_state_serves_where_its_hash_is_another(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where another Pillow decodes the same pictures to other pixels."""
    shutil.copytree(whole / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(study_run, "teacher_hash", lambda *_: "0" * 16)
    study = load_study(SMOKE)
    state = State(tmp_path / "runs/smoke-state", study.name, study.sha256)
    progress = study_run.Progress(study, list(study.settings), state, torch.device("cpu"))
    study_run.run_study(progress)
    assert study_run.outlook(progress) == ""
    names = {path.name for path in (whole / "runs/teachers").iterdir()}
    assert {path.name for path in progress.teachers.values()} == names
    assert {path.name for path in Path("runs/teachers").iterdir()} == names


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"baseline": "at"}, "baseline"),
        ({"tune": {"grid": {"ce": [{}]}}}, "every arm"),
        ({"tune": {"setting": "dirty"}}, "dirty"),
        ({"settings": {"clean": {"data.nose": 1}, "noisy": {}}}, "unknown key data.nose"),
        ({"arms": [{"name": "ce", "method": "ce"}, {"name": "kd", "method": "kt"}]}, "every arm"),
        ({"seed": [0]}, "seed"),
    ],
)
def test_a_study_that_does_not_fit_together_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    study = yaml.safe_load(SMOKE.read_text())
    for key, value in change.items():
        study[key] = {**study[key], **value} if key == "tune" else value
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    assert_fails(reproduce(cwd=tmp_path, study=path), 2, words)
    assert not (tmp_path / "runs").exists()
