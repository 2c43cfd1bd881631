"""`compress benchmark` and `compress report` as commands, on a run that the real commands finished and exported."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from compress.runs import Run
from export.benchmark import AccuracyResult, read_benchmark, write_benchmark
from tests.helpers.command import Command, assert_fails

pytestmark = pytest.mark.slow
BRIEFLY = ("--seconds", "0.01", "--batch", "1", "--threads", "1", "--runtime", "ort")


@pytest.fixture(scope="module")
def exported(command: Command, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("benchmarked") / finished.name
    shutil.copytree(finished, run)
    result = command("export", run, cwd=run.parent)
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture(scope="module")
def measured(command: Command, exported: Path) -> Path:
    result = command("benchmark", exported, *BRIEFLY, "--json", cwd=exported.parent)
    assert result.returncode == 0, result.stderr
    written = json.loads((exported / "benchmark.json").read_text())
    assert written["run"] == exported.name
    assert json.loads(result.stdout) == written | {"run": str(exported)}
    return exported


def with_limits(source: Path, target: Path, **limits: float) -> Path:
    shutil.copytree(source, target)
    recipe = yaml.safe_load((target / "recipe.yaml").read_text())
    recipe["benchmark"] |= {"max_top1_drop": 1.0} | limits
    (target / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return target


def test_the_last_lines_say_the_verdict_and_where_to_read_on(command: Command, exported: Path, tmp_path: Path) -> None:
    run = with_limits(exported, tmp_path / "run", max_size_mb=1000.0)
    result = command("benchmark", run, *BRIEFLY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    verdict, page = result.stderr.strip().splitlines()[-2:]
    assert verdict.startswith("PASS  student.onnx")
    assert "compress report" in page


@pytest.mark.parametrize(("limit", "gate", "code"), [(1e-6, True, 6), (1e-6, False, 0), (1000.0, True, 0)])
def test_the_gate_is_exit_6_where_a_limit_is_missed(
    command: Command, exported: Path, tmp_path: Path, limit: float, gate: bool, code: int
) -> None:
    run = with_limits(exported, tmp_path / "run", max_size_mb=limit)
    result = command("benchmark", run, *BRIEFLY, *(["--gate"] if gate else []), cwd=tmp_path)
    outcome = json.loads((run / "benchmark.json").read_text())["verdict"]["outcome"]
    assert outcome == ("FAIL" if limit < 1 else "PASS")
    if code:
        assert_fails(result, 6, "max_size_mb")
    else:
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("limits", "options", "code"),
    [
        ({"max_top1_drop": None}, ["--gate"], 0),
        ({"max_top1_drop": None}, ["--gate", "--undecided", "7"], 7),
        ({"max_size_mb": 1e-6}, ["--gate", "--undecided", "7"], 6),
    ],
)
def test_what_is_undecided_has_an_exit_code_of_its_own(
    command: Command, exported: Path, tmp_path: Path, limits: dict[str, float], options: list[str], code: int
) -> None:
    run = with_limits(exported, tmp_path / "run", **limits)
    result = command("benchmark", run, *BRIEFLY, *options, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    verdict = json.loads((run / "benchmark.json").read_text())["verdict"]["outcome"]
    assert verdict == ("UNDECIDED" if "max_top1_drop" in limits else "FAIL")


@pytest.mark.parametrize("verb", ["export", "benchmark"])
def test_an_exit_code_for_undecided_without_a_gate_is_wrong_usage(
    command: Command, exported: Path, tmp_path: Path, verb: str
) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    assert_fails(command(verb, run, "--undecided", 7, cwd=tmp_path), 2, "Add --gate")
    assert not (run / "benchmark.json").exists()


def test_without_an_export_it_says_which_command_is_missing(command: Command, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    assert_fails(command("benchmark", tmp_path / "run", cwd=tmp_path), 3, "compress export")
    assert not (tmp_path / "run" / "benchmark.json").exists()


def test_an_export_of_the_weights_before_is_refused_and_so_said_of_a_bundle(
    command: Command, measured: Path, tiny_recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    assert command("export", run, "--bundle", cwd=tmp_path).returncode == 0
    longer = command("distill", tiny_recipe, "--out", run, "--resume", "--set", "train.epochs=3", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    for arguments in (("benchmark", run, *BRIEFLY), ("push", run, "you/small", "--dry-run")):
        assert_fails(command(*arguments, cwd=tmp_path), 3, "other weights of the student", "compress export")
    anew = command("export", run, cwd=tmp_path)
    assert "bundle is of an earlier export" in anew.stderr
    assert command("benchmark", run, *BRIEFLY, cwd=tmp_path).returncode == 0
    anew = command("export", run, "--bundle", cwd=tmp_path)
    assert "earlier export" not in anew.stderr


def test_an_altered_file_is_refused_and_the_earlier_benchmark_stays(
    command: Command, measured: Path, tmp_path: Path
) -> None:
    shutil.copytree(measured, tmp_path / "run")
    before = (tmp_path / "run" / "benchmark.json").read_bytes()
    (tmp_path / "run" / "export" / "student.onnx").write_bytes(b"something else")
    assert_fails(command("benchmark", tmp_path / "run", *BRIEFLY, cwd=tmp_path), 3, "student.onnx")
    assert (tmp_path / "run" / "benchmark.json").read_bytes() == before


def test_reports_of_one_run_and_of_two_are_written_where_they_say(
    command: Command, measured: Path, tmp_path: Path
) -> None:
    second = tmp_path / "second"
    shutil.copytree(measured, second)
    alone = command("report", second, "--json", cwd=tmp_path)
    assert json.loads(alone.stdout) == [str(second / "report.html"), str(second / "report.md")]
    for name in ("manifest.json", "benchmark.json", "page"):
        before = (second / "benchmark.json").read_bytes()
        assert_fails(command("report", second, "--out", second / name, cwd=tmp_path), 2, ".html")
        assert (second / "benchmark.json").read_bytes() == before
    both = command("report", measured, second, "--out", "both.html", cwd=tmp_path)
    assert both.stdout.splitlines() == ["both.html", "both.md"]
    page = (tmp_path / "both.html").read_text()
    assert page.count("data-verdict") >= 2
    assert "student.onnx" in (tmp_path / "both.md").read_text()


def test_reports_over_unlike_data_or_damaged_files_are_refused_and_overwrite_nothing(
    command: Command, measured: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(measured, other)
    (tmp_path / "report.html").write_text("of before")
    true = read_benchmark(Run(measured))

    data = true.data.model_copy(update={"sha256": "0" * 64})
    write_benchmark(Run(other), true.model_copy(update={"data": data}))
    assert_fails(command("report", measured, other, cwd=tmp_path), 3, "images or labels differ")

    data = true.data.model_copy(update={"eval_split": "another"})
    write_benchmark(Run(other), true.model_copy(update={"data": data}))
    assert_fails(command("report", measured, other, cwd=tmp_path), 3, "evaluation split differ")

    (other / "benchmark.json").write_bytes((measured / "benchmark.json").read_bytes()[:-50])
    assert_fails(command("report", measured, other, cwd=tmp_path), 3, str(other))
    assert_fails(command("report", tmp_path / "nothing", cwd=tmp_path), 3, "nothing")
    assert (tmp_path / "report.html").read_text() == "of before"
    assert {path.name for path in other.iterdir()} == {path.name for path in measured.iterdir()}


def test_an_exported_teacher_is_measured_in_the_same_runtime_and_never_recommended(
    command: Command, exported: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(exported, tmp_path / "run"))
    assert command("export", run, "--teacher", cwd=tmp_path).returncode == 0
    assert command("benchmark", run, *BRIEFLY, "--runtime", "torch", cwd=tmp_path).returncode == 0
    benchmark = read_benchmark(Run(run))
    found = {entry.name: entry for entry in benchmark.candidates}
    teacher = found["teacher.onnx"]
    torch_teacher = found["teacher.torch"]
    assert isinstance(teacher.accuracy, AccuracyResult)
    assert isinstance(torch_teacher.accuracy, AccuracyResult)
    assert teacher.accuracy.top1 == torch_teacher.accuracy.top1
    assert isinstance(teacher.latency, list)
    assert not teacher.deployable
    assert "teacher.onnx" not in benchmark.verdict.by_file
    page = command("report", run, cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "teacher.onnx" in (run / "report.md").read_text()
