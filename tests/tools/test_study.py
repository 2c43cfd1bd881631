"""tools/study/*.py from the inside: what a carried state keeps, and that configurations stay apart."""

from pathlib import Path
from typing import Any

import plan as study_plan
import plots as study_plots
import pytest
import results as study_results
import run as study_run
import state as study_state
import torch
import yaml
from matplotlib.figure import Figure
from scipy.stats import ttest_rel

from compress.runs.folder import runs_root
from compress.system import files
from compress.system.errors import InputError, MachineError, UsageError
from export.report import Sweep, compare
from tests.helpers.paths import ROOT

SMOKE = ROOT / "tools" / "study" / "smoke.yaml"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(path: Path) -> Path:
    (path / "student").mkdir(parents=True)
    (path / "student" / "model.safetensors").write_bytes(b"weights" * 10)
    files.write_json(path / "manifest.json", {"schema_version": 1, "status": "finished"})
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state(folder: Path) -> study_state.State:
    folder.mkdir(exist_ok=True)
    return study_state.State(folder, "s", "0" * 64)


def test_large_weights_are_carried_until_the_student_is_measured(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_state, "_SMALL_BYTES", 10)
    run, tuning = (finished(runs_root() / "s" / name) for name in ("run", study_plan.tuned_name("kd", 0, 100)))
    carried = state(here / "state")
    carried.save({}, [run, tuning])
    assert "student/model.safetensors" in carried.index.units["s/run"].files
    assert set(carried.index.units["s/tune-kd-0-s100"].files) == {"manifest.json"}
    files.write_json(run / study_state.MEASURES, {})
    carried.save({}, [run])
    assert set(carried.index.units["s/run"].files) == {"manifest.json", "measures.json"}


def test_what_is_restored_by_half_does_not_count_as_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(runs_root() / "s" / "run")
    expected = content(run)
    state(here / "state").save({}, [run])
    monkeypatch.chdir(here / "state")
    written: list[Path] = []

    def full(path: Path, data: bytes) -> None:
        if written:
            raise MachineError("no space left")
        written.append(path)
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr(study_state.files, "write_bytes", full)
        with pytest.raises(MachineError):
            state(here / "state").restore()
    assert written
    assert not run.exists()
    state(here / "state").restore()
    assert content(run) == expected


def test_a_state_names_the_teachers_that_it_has_and_no_other_folder(here: Path) -> None:
    teacher = here / "runs" / "teachers" / "0123"
    (teacher / "model").mkdir(parents=True)
    begun = here / "runs" / "teachers" / "4567"
    begun.mkdir()
    files.write_json(teacher / "model" / "facts.json", {})
    carried = state(here / "state")
    carried.save({"clean": runs_root() / "teachers" / "0123", "noisy": runs_root() / "teachers" / "4567"}, [])
    assert state(here / "state").index.teachers == {"clean": "teachers/0123"}
    index = yaml.safe_load((here / "state" / "state.json").read_text())
    files.write_json(here / "state" / "state.json", index | {"teachers": {"clean": "../elsewhere"}})
    with pytest.raises(InputError, match=r"damaged.*\.\./elsewhere"):
        state(here / "state")


def study(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(SMOKE.read_text()) | changes))
    return path


def test_a_configuration_s_value_reaches_no_other_one(tmp_path: Path) -> None:
    arms = [
        {"name": "kd", "method": "kd"},
        {"name": "both", "method": "ka+dtd", "set": {"supervision.dtd": {"beta": 10.0}}},
    ]
    tune = yaml.safe_load(SMOKE.read_text())["tune"]
    tune["grid"] = {"kd": [{}, {}], "both": [{"supervision.dtd.gamma": 0.25}, {}]}
    loaded = study_plan.load_study(study(tmp_path, arms=arms, tune=tune))
    cells = {cell.arm: cell.recipe.supervision.dtd for cell in study_plan.tuning_cells(loaded, Path("t"))}
    assert (cells["both#0"].gamma, cells["both#1"].gamma) == (0.25, 0.5)
    assert cells["both#0"].beta == cells["both#1"].beta == 10.0


def test_a_configuration_that_no_setting_can_have_is_refused_before_anything_runs(tmp_path: Path) -> None:
    """The second one keeps logits, which a setting with a term on features cannot."""
    tune = yaml.safe_load(SMOKE.read_text())["tune"]
    tune["grid"] = {arm: [{}, {"teacher.cache": {"views": 1}}] for arm in tune["grid"]}
    settings = {"clean": {}, "noisy": {"supervision.terms": [{"name": "relational"}]}}
    with pytest.raises(UsageError, match=r"relational .* teacher\.cache"):
        study_plan.load_study(study(tmp_path, settings=settings, tune=tune))


def test_without_tuning_every_arm_runs_as_it_is_on_all_of_train(tmp_path: Path) -> None:
    raw = yaml.safe_load(SMOKE.read_text())
    del raw["tune"]
    raw["base"]["teacher"] |= {"model": "resnet10t", "source": "finetune"}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    loaded = study_plan.load_study(path)
    assert study_plan.tuning_cells(loaded, Path("t")) == []
    chosen = study_run.winners(study_run.tuning_results(loaded))
    cells = study_plan.final_cells(loaded, "clean", Path("t"), chosen)
    assert [cell.name for cell in cells][:2] == ["clean-ce-s0", "clean-ce-s1"]
    teacher = study_plan.teacher_recipe(loaded, "clean")
    assert teacher.teacher.source == "finetune"
    assert {recipe.data.holdout for recipe in (teacher, *(cell.recipe for cell in cells))} == {0.0}


def test_settings_under_one_teacher_are_compared_arm_by_arm_and_other_teachers_are_not() -> None:
    def setting(name: str, teacher: str, **top1: list[float]) -> Sweep:
        data = {"name": "digits", "eval_split": "test", "eval_images": 1000}
        rows = [
            {"name": f"{name}-{arm}-s{seed}", "arm": arm, "seed": seed, "run": "", "status": "finished", "data": data}
            | {"student_top1": value, "teacher_top1": 0.9, "student_sha256": "", "teacher_sha256": teacher}
            for arm, values in top1.items()
            for seed, value in enumerate(values)
        ]
        return compare(name, rows, "none")

    plain = setting("ce", "a", none=[0.50, 0.52, 0.51], dkd=[0.61, 0.60, 0.63])
    adjusted = setting("ka", "a", none=[0.55, 0.56, 0.58], dkd=[0.60, 0.60, 0.61])
    found = study_results.across(plain, adjusted)
    assert list(found) == ["none", "dkd"]
    for arm in found:
        expected = ttest_rel(*([run.student_top1 for run in each.runs if run.arm == arm] for each in (adjusted, plain)))
        assert found[arm].p == pytest.approx(expected.pvalue)
        interval = found[arm].interval
        assert interval is not None
        assert (interval.low, interval.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found["dkd"].mean == pytest.approx(-0.01)
    smaller, larger = sorted(each.p or 1 for each in found.values())
    corrected = [2 * smaller, max(2 * smaller, larger)]
    assert sorted(each.holm_p or 1 for each in found.values()) == pytest.approx(corrected)
    assert study_results.across(plain, setting("ka", "b", none=[0.55], dkd=[0.6])) == {}


def test_the_samples_behind_the_plot_are_those_of_the_first_seed_and_what_the_temperature_follows() -> None:
    def run(arm: str, seed: int, method: str) -> dict[str, Any]:
        columns = {
            name: [seed + step / 5000 for step in range(2000)] for name in ("temperature", "cosine", "confidence")
        }
        measured = None if method == "kd" else {**columns, "right": [1.0] * 2000}
        return {"arm": arm, "seed": seed, "method": method, "measures": {"temperatures": measured}}

    arms = {"kd": "kd", "flsw": "dtd-flsw", "cwsm": "ka-ps+dtd-cwsm"}
    runs = [run(arm, seed, method) for arm, method in arms.items() for seed in (3, 4)]
    found = study_plots.confusion({"settings": {"noisy": {"runs": runs}}})
    assert list(found) == ["noisy"]
    assert {title: set(columns) for title, columns in found["noisy"].items()} == {
        "noisy: flsw": {"cosine", "temperature", "right"},
        "noisy: cwsm": {"confidence", "temperature", "right"},
    }
    for columns in found["noisy"].values():
        assert columns["temperature"] == [3 + step / 5000 for step in range(1000)]


def test_settings_without_temperatures_and_rows_without_an_arm_leave_no_empty_panel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    epochs = [{"epoch": 0, **{f"temperature_{which}": 2.0 for which in ("min", "mean", "max")}}]
    temperatures = {"cosine": [0.1, 0.9], "temperature": [1.0, 2.0], "right": [0, 1]}

    def setting(method: str, measured: dict[str, Any] | None) -> dict[str, Any]:
        arms = [f"arm{number}" for number in range(9)]
        shown = {"agreement": {"value": 0.5}, "student": {"ece": 0.1, "nll": {"value": 1.0}}, "temperatures": measured}
        runs = [{"arm": arm, "seed": 0, "method": method, "epochs": epochs, "measures": shown} for arm in arms]
        compared = [{"name": arm, "difference": None} for arm in arms]
        return {"runs": [run | {"student_top1": 0.5} for run in runs], "comparison": {"arms": compared}}

    settings = {"ce": setting("ce", None), "dtd": setting("dtd-flsw", temperatures)}
    found = study_plots.plots({"settings": settings, "baseline": "arm0"})
    panels = {title: len(figure.axes) for title, figure in zip(found, drawn, strict=True)}
    assert panels == {"differences": 2, "measures": 6, "temperature": 1, "confusion": 9}
    labels = drawn[list(found).index("temperature")].axes[0].get_legend_handles_labels()[1]
    assert len(labels) == 9


def test_arms_of_different_length_are_planned_with_their_epochs(here: Path, tmp_path: Path) -> None:
    arms = [{"name": "kd", "method": "kd"}, {"name": "longer", "method": "ka", "set": {"train.epochs": 7}}]
    tune = yaml.safe_load(SMOKE.read_text())["tune"] | {"grid": {"kd": [{}], "longer": [{}]}}
    loaded = study_plan.load_study(study(tmp_path, arms=arms, tune=tune, seeds=[0]))
    progress = study_run.Progress(loaded, ["clean", "noisy"], state(here / "state"), torch.device("cpu"))
    epochs = {name: (setting, number) for name, setting, number in study_run.planned(progress)}
    assert epochs == {
        "tune-kd-0-s100": ("clean", 1),
        "tune-longer-0-s100": ("clean", 1),
        "clean-kd-s0": ("clean", 3),
        "clean-longer-s0": ("clean", 7),
        "noisy-kd-s0": ("noisy", 3),
        "noisy-longer-s0": ("noisy", 7),
    }


def test_arms_of_different_length_are_drawn_each_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    adjusted = {"ka": [0.4, 0.2], "longer": [0.2, 0.2, 0.1]}
    runs = [
        {"arm": arm, "seed": 0, "method": "ka-ps", "student_top1": 0.5, "measures": None}
        | {"epochs": [{"epoch": number, "adjusted": value} for number, value in enumerate(values)]}
        for arm, values in adjusted.items()
    ]
    compared = {"arms": [{"name": arm, "difference": None} for arm in adjusted]}
    found = study_plots.plots({"settings": {"clean": {"runs": runs, "comparison": compared}}, "baseline": "ka"})
    (line,) = drawn[list(found).index("adjusted")].axes[0].get_lines()
    assert list(line.get_xdata()) == [1, 2, 3]
    assert list(line.get_ydata()) == pytest.approx([30, 20, 10])
