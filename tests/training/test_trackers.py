"""Metrics in the real MLflow and the real W&B (offline): what metrics.jsonl says, once, in one tracked run a run."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from compress.recipe import load_recipe
from compress.runs.distillation import distill, distill_in_steps
from compress.runs.folder import Run
from compress.sweeps.lockstep import run_in_lockstep
from compress.system.distribution import DISTRIBUTION
from compress.system.errors import EXIT_ENVIRONMENT, Interrupted, MachineError
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from compress.training.trackers import add_artifacts
from tests.helpers.command import Command
from tests.helpers.torchrun import Torchrun
from tests.helpers.tracked import OfflineRun, expected_points, mlflow_points, tensorboard_points, wandb_runs
from tests.helpers.training import stop_after

pytest.importorskip("mlflow")
wandb = pytest.importorskip("wandb")
pytestmark = pytest.mark.slow

ALL = "train.tracker=[tensorboard, mlflow, wandb]"
MLFLOW, WANDB = "train.tracker=[mlflow]", "train.tracker=[wandb]"
RESULTS = ("teacher_top1", "teacher_balanced_top1", "student_top1", "student_balanced_top1", "seconds")
FILES = {"README.md", "config.json", "model.safetensors"}
INT8 = "train.quantize=int8"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, which is empty. Trackers are as on a new machine, without a network."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    wandb.teardown()  # it keeps the environment of its first call
    yield tmp_path
    wandb.teardown()


@pytest.fixture
def client() -> Any:
    """Of MLflow's default store in the working folder."""
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def run(recipe: Path, *overrides: str, out: str = "run", **options: Any) -> Run:
    return distill(load_recipe(recipe, method="kd", overrides=list(overrides)), out=out, **options)


def mlflow_runs(client: Any) -> dict[str, Any]:
    """The runs of the experiment, by name, which is there once."""
    found = client.search_runs([client.get_experiment_by_name("compress").experiment_id])
    names = [one.info.run_name for one in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def only_wandb_run() -> OfflineRun:
    (found,) = wandb_runs(Path("wandb")).values()
    return found


def rounded(points: dict[tuple[str, int], Any]) -> Any:
    return {place: pytest.approx(values, rel=1e-6) for place, values in points.items()}


def test_trackers_have_the_recipe_each_epoch_the_results_and_the_student(tiny_recipe: Path, client: Any) -> None:
    finished = run(tiny_recipe, ALL)
    expected, manifest = expected_points(finished.path), finished.manifest.dump()
    assert {phase for phase in ("teacher", "student") if (f"{phase}/loss", 1) in expected} == {"teacher", "student"}

    tracked = mlflow_runs(client)["run"]
    assert tracked.info.status == "FINISHED"
    assert mlflow_points(client, tracked.info.run_id) == rounded(expected)
    assert {name: tracked.data.metrics[name] for name in RESULTS} == {name: manifest[name] for name in RESULTS}
    parameters = tracked.data.params
    assert parameters["train.lr"] == "0.05"
    assert parameters["teacher.args.channels.3"] == "16"
    assert {Path(file.path).name for file in client.list_artifacts(tracked.info.run_id, "student")} == FILES

    offline = only_wandb_run()
    assert (offline.names, offline.projects, offline.exits) == ({"run"}, {"compress"}, [0])
    assert offline.points == rounded(expected)
    assert {name: offline.summary[name] for name in RESULTS} == {name: manifest[name] for name in RESULTS}
    assert offline.config["train.lr"] == 0.05
    assert offline.artifacts == {"run-student": FILES}

    assert tensorboard_points(finished.path) == rounded(expected)


def test_a_resumed_run_goes_on_in_the_tracked_run_and_a_repeated_epoch_is_there_once(
    tiny_recipe: Path, client: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 15)  # teacher and student have two epochs of four steps: in the student's second one
        with pytest.raises(Interrupted):
            run(tiny_recipe, ALL)
    assert mlflow_runs(client)["run"].info.status == "KILLED"
    before = json.loads(Path("run/trackers.json").read_text())
    assert before["mlflow"]["logged"] == before["wandb"]["logged"] == {"teacher": 2, "student": 1}
    for checkpoint in Path("run/checkpoints").iterdir():
        checkpoint.unlink()  # the student's first epoch is repeated
    finished = run(tiny_recipe, ALL, resume=True)
    assert finished.manifest.finished
    expected = expected_points(finished.path)
    tracked = mlflow_runs(client)
    assert list(tracked) == ["run"]
    assert tracked["run"].info.status == "FINISHED"
    for points in (
        mlflow_points(client, tracked["run"].info.run_id),
        only_wandb_run().points,
        tensorboard_points(finished.path),
    ):
        assert points.keys() == expected.keys()
        assert {place: len(values) for place, values in points.items() if len(values) != 1} == {}
    offline = only_wandb_run()
    assert offline.exits == [1, 0]
    assert offline.rows == [0, 1, 2, 3]


def test_a_fine_tuning_that_is_done_again_has_a_series_of_its_own(tiny_recipe: Path, client: Any) -> None:
    run(tiny_recipe, ALL, INT8, "train.quantize_epochs=1")
    first = expected_points(Path("run"))
    finished = run(tiny_recipe, ALL, INT8, "train.quantize_epochs=2", resume=True)
    second = expected_points(finished.path)
    assert tensorboard_points(finished.path) == rounded(second)
    assert len(list((finished.path / "tensorboard").iterdir())) == 1
    both = first | {(name.replace("quantize/", "quantize-2/"), epoch): value for (name, epoch), value in second.items()}
    assert ("quantize/loss", 0) in both
    assert ("quantize-2/loss", 1) in both
    tracked = mlflow_runs(client)["run"]
    assert mlflow_points(client, tracked.info.run_id) == only_wandb_run().points == rounded(both)
    assert tracked.data.tags["train.quantize_epochs"] == "2"
    assert only_wandb_run().config["train.quantize_epochs"] == 2


def test_a_tracker_that_is_added_to_a_run_gets_its_earlier_epochs(tiny_recipe: Path, client: Any) -> None:
    run(tiny_recipe)
    finished = run(tiny_recipe, "train.epochs=3", MLFLOW, resume=True)
    id_ = mlflow_runs(client)["run"].info.run_id
    assert mlflow_points(client, id_) == rounded(expected_points(finished.path))


def test_epochs_of_a_disabled_tracker_are_logged_once_it_is_on(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    run(tiny_recipe, WANDB)
    assert wandb_runs(Path("wandb")) == {}
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    finished = run(tiny_recipe, "train.epochs=3", WANDB, resume=True)
    assert only_wandb_run().points == rounded(expected_points(finished.path))


def test_runs_in_lockstep_do_not_mix_and_each_has_the_kept_teacher_once(tiny_recipe: Path, client: Any) -> None:
    memo = Memo()
    outcomes = run_in_lockstep(
        {
            method: distill_in_steps(load_recipe(tiny_recipe, method=method, overrides=[ALL]), memo=memo, out=method)
            for method in ("kd", "ka")
        }
    )
    tracked, offline = mlflow_runs(client), wandb_runs(Path("wandb")).values()
    for method, outcome in outcomes.items():
        assert isinstance(outcome, Run), outcome
        expected = expected_points(outcome.path)
        assert ("teacher/loss", 1) in expected
        assert mlflow_points(client, tracked[method].info.run_id) == rounded(expected)
        assert [one.points for one in offline if one.names == {method}] == [rounded(expected)]
    assert len(tracked) == len(offline) == 2


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_missing_is_said_before_the_teacher_is_trained(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MachineError, match=rf"{DISTRIBUTION}\[{name}\]") as raised:
        run(tiny_recipe, f"train.tracker=[{name}]")
    assert raised.value.code == EXIT_ENVIRONMENT == 4
    assert not Path("runs").exists()


def test_a_missing_login_is_one_line_and_no_prompt(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(MachineError, match=r"needs a login.*WANDB_MODE=offline") as raised:
        run(tiny_recipe, ALL)
    assert raised.value.code == EXIT_ENVIRONMENT
    assert not Path("runs").exists()


def test_a_store_that_does_not_answer_at_the_start_is_an_error(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MachineError, match=r"train.tracker: \[mlflow\] cannot be used") as raised:
        run(tiny_recipe, MLFLOW)
    assert raised.value.code == EXIT_ENVIRONMENT
    assert "secret" not in str(raised.value)


def test_a_tracker_that_fails_is_a_warning_and_gets_the_rest_at_the_end(
    tiny_recipe: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    working, calls = type(client).log_batch, []

    def log_batch(*args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 4:  # the parameters are two calls, then each line is one
            raise ConnectionError("the server is gone\nfor now")
        working(*args, **options)

    monkeypatch.setattr(type(client), "log_batch", log_batch)
    with caplog.at_level(logging.WARNING, "compress"):
        finished = run(tiny_recipe, MLFLOW)
    assert finished.manifest.finished
    warned = [record.getMessage() for record in caplog.records if "mlflow" in record.getMessage()]
    assert len(warned) == 1
    assert "the server is gone. " in warned[0]
    assert mlflow_points(client, mlflow_runs(client)["run"].info.run_id) == rounded(expected_points(finished.path))


def test_a_tracker_that_never_comes_back_ends_no_training(
    tiny_recipe: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    for method in ("_log", "log_artifact", "finish"):
        monkeypatch.setattr(f"compress.training.trackers.mlflow.MLflow.{method}", refuse)
        monkeypatch.setattr(f"compress.training.trackers.wandb.WandB.{method.replace('_log', 'log_metrics')}", refuse)
    with caplog.at_level(logging.WARNING, "compress"):
        finished = run(tiny_recipe, ALL)
    assert finished.manifest.finished
    assert len(read_metrics(finished.metrics)) == 4
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 2


def test_a_report_is_added_to_the_tracked_run(tiny_recipe: Path, client: Any) -> None:
    finished = run(tiny_recipe, ALL)
    pages = [finished.path / "report.html", finished.path / "report.md"]
    for page in pages:
        page.write_text("measured")
    add_artifacts(finished.path, pages)
    tracked = mlflow_runs(client)["run"]
    assert {file.path for file in client.list_artifacts(tracked.info.run_id)} == {"student", "report.html", "report.md"}
    assert tracked.info.status == "FINISHED"
    offline = only_wandb_run()
    assert offline.artifacts.keys() == {"run-student", "run-report-html", "run-report-md"}
    assert offline.artifacts["run-report-md"] == {"report.md"}


def test_what_a_tracker_prints_does_not_go_to_stdout(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for method in ("log_parameters", "log_metrics", "finish"):
        monkeypatch.setattr(f"compress.training.trackers.mlflow.MLflow.{method}", lambda *_: print("View run at URL"))
    run(tiny_recipe, MLFLOW)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("View run at URL") == 1 + 4 + 1


def test_stdout_is_json_alone(tiny_recipe: Path, command: Command, here: Path) -> None:
    result = command("distill", tiny_recipe, "--json", "--set", ALL, cwd=here, HOME=str(here), WANDB_MODE="offline")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["status"] == "finished"


@pytest.mark.faults
def test_of_several_processes_the_leader_alone_logs(
    tiny_recipe: Path, torchrun: Torchrun, here: Path, client: Any
) -> None:
    launcher = torchrun("distill", tiny_recipe, "--set", ALL, "--out", "run", cwd=here)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    tracked = mlflow_runs(client)
    assert list(tracked) == ["run"]
    expected = rounded(expected_points(here / "run"))
    assert mlflow_points(client, tracked["run"].info.run_id) == only_wandb_run().points == expected
