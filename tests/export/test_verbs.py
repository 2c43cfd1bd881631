"""The four verbs from Python, on a run of a minute at most: distil, export, benchmark, report."""

import json
from pathlib import Path

import onnxruntime
import pytest

from compress import distill, load_recipe
from compress.runs.folder import Run
from compress.system.errors import InputError
from export import benchmark_run, export_run, report_runs

pytestmark = pytest.mark.slow


def test_a_recipe_becomes_a_student_its_files_a_benchmark_and_a_page(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = distill(load_recipe(tiny_recipe), out=tmp_path / "run")
    exported = export_run(run)
    measured = benchmark_run(str(run.path), runtimes=["ort"], batches=[1], threads=[1], min_seconds=0.01, min_runs=4)
    page, markdown = report_runs(run.path)
    both = report_runs([run, str(run.path)], out="both.html")

    assert set(exported.files) == {"student.onnx"}
    session = onnxruntime.InferenceSession(str(run.path / "export" / "student.onnx"))
    assert session.get_modelmeta().custom_metadata_map["weights_sha256"] == run.result.student_sha256
    assert json.loads((run.path / "benchmark.json").read_text()) == measured.model_dump(mode="json")
    assert measured.candidate("student.onnx").sha256 == exported.files["student.onnx"].sha256
    assert (page, markdown) == (run.path / "report.html", run.path / "report.md")
    assert f"## {measured.verdict.outcome}: run" in markdown.read_text()
    assert both == [Path("both.html"), Path("both.md")]
    assert (tmp_path / "both.html").read_text().count("data-verdict") >= 2
    heard = capsys.readouterr()
    assert heard.out == heard.err == "", "a library is silent until its program sets logging up"


def test_a_run_that_is_none_is_refused_by_each_verb(tmp_path: Path) -> None:
    for verb in (export_run, benchmark_run, report_runs):
        for run in (tmp_path, str(tmp_path), Run(tmp_path)):
            with pytest.raises(InputError, match=r"manifest\.json|compress benchmark"):
                verb(run)
