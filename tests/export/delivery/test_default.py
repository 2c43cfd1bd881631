"""The default model of a bundle is the fastest that passes its gates, with and without a benchmark.

Manifest, Triton's configuration and README speak of that file. What was measured is altered by hand here.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from compress.runs.data import data_of_student
from compress.runs.folder import Run
from export import benchmark_run, export_run
from export.benchmark import Benchmark, read_benchmark, write_benchmark
from export.benchmark.results import Latency
from export.folder import ExportFolder
from export.from_run import _bundle
from export.pipeline import Wanted

BOTH = Wanted(formats=("onnx", "openvino"), precisions=("fp32", "fp16", "int8"), threads=1)
OPENVINO = Wanted(formats=("openvino",), precisions=("fp32", "fp16", "int8"), threads=1)


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Benchmark]:
    run = Run(tmp_path_factory.mktemp("default") / finished.name)
    shutil.copytree(finished, run.path)
    export_run(run, formats=BOTH.formats, precisions=BOTH.precisions, threads=1)
    settings = {"batches": (1,), "threads": (1,), "min_seconds": 0.0, "min_runs": 4}
    measured = benchmark_run(run, runtimes=("ort", "openvino"), **settings)
    run.benchmark_file.unlink()
    return run, measured


@pytest.fixture
def run(exported: tuple[Run, Benchmark], tmp_path: Path) -> Run:
    return Run(Path(shutil.copytree(exported[0].path, tmp_path / "run")))


def set_outcomes(run: Run, outcomes: Mapping[str, str]) -> None:
    path = ExportFolder(run.export).record_file
    record = json.loads(path.read_text())
    for name, entry in record["files"].items():
        if "outcome" in entry:
            entry["outcome"] = outcomes.get(name, "PASS")
        if name == "student.int8.onnx":
            entry["speedup_over_fp32"] = 9.0
    path.write_text(json.dumps(record))


def set_benchmark(run: Run, measured: Benchmark, speeds: Mapping[str, float], gates: Mapping[str, str]) -> None:
    """p50 in ms and gates by candidate; others are slow, and pass."""
    changed = []
    for entry in measured.candidates:
        if isinstance(entry.latency, list):
            found = [timed(each, speeds.get(entry.name, 50.0)) for each in entry.latency]
            entry = entry.model_copy(update={"latency": found})
        deployable = entry.role == "student" and entry.runtime != "torch" and entry.name != "student.int8.trt.onnx"
        update = {"gate": gates.get(entry.name, "PASS"), "deployable": deployable} if entry.role == "student" else {}
        changed.append(entry.model_copy(update=update))
    by_file = {entry.name: gates.get(entry.name, "PASS") for entry in changed if entry.deployable}
    fastest = min(by_file, key=lambda name: speeds.get(name, 50.0))
    verdict = measured.verdict.model_copy(update={"by_file": by_file, "recommended": fastest, "outcome": "PASS"})
    write_benchmark(run, measured.model_copy(update={"candidates": changed, "verdict": verdict}))


def timed(entry: Latency, p50_ms: float) -> Latency:
    return entry.model_copy(update={"p50_ms": entry.p50_ms.model_copy(update={"value": p50_ms})})


def default_of(run: Run, wanted: Wanted) -> dict[str, Any]:
    """Of the bundle, after a look at all that names it."""
    folder = ExportFolder(run.export)
    _bundle(run, folder, data_of_student(run), "folder", wanted)
    manifest = json.loads((folder.bundle / "manifest.json").read_text())
    name, config = manifest["default_model"], (folder.bundle / "config.pbtxt").read_text()
    readme = (folder.bundle / "README.md").read_text()
    about = manifest["models"][name]
    file = about["file"] or name
    assert f'default_model_filename: "{file}"' in config
    assert ('backend: "openvino"' in config) == (about["runtime"] == "openvino")
    (line,) = [line for line in readme.splitlines() if " is the default. Its top-1 is " in line]
    assert line.startswith(f"`1/{file}`")
    return {"name": name, "file": file, "line": line, **about}


FAST = {"openvino/student.int8.xml": 1.0, "student.int8.onnx": 2.0, "student.onnx": 3.0}


def test_a_measured_file_that_is_undecided_is_not_the_default(run: Run, exported: tuple[Run, Benchmark]) -> None:
    """Though the verdict recommends it: by the gate of the benchmark, by that of the file, by both."""
    undecided = {"openvino/student.int8.xml": "UNDECIDED"}
    for gates, outcomes in ((undecided, {}), ({}, undecided), (undecided, undecided)):
        set_benchmark(run, exported[1], FAST, gates)
        set_outcomes(run, outcomes)
        found = default_of(run, BOTH)
        assert (found["name"], found["runtime"]) == ("student.int8.onnx", "ort"), (gates, outcomes)
    accuracy = exported[1].candidate("student.int8.onnx").accuracy
    assert f"Its top-1 is {accuracy.top1.value:.2%} " in found["line"]  # type: ignore[union-attr]
    set_benchmark(run, exported[1], FAST, {})
    set_outcomes(run, {})
    assert default_of(run, BOTH)["name"] == "student.int8.xml"


def test_where_no_file_meets_every_limit_the_default_is_of_those_that_pass_their_gate(
    run: Run, exported: tuple[Run, Benchmark]
) -> None:
    """Few images leave every file UNDECIDED, and --set may have made the gate of the fastest stricter."""
    set_outcomes(run, {})
    fastest = {"openvino/student.int8.xml": "UNDECIDED", "student.int8.onnx": "UNDECIDED"}
    set_benchmark(run, exported[1], FAST, fastest)
    measured = read_benchmark(run)
    by_file = dict.fromkeys(measured.verdict.by_file, "UNDECIDED")
    verdict = measured.verdict.model_copy(update={"by_file": by_file, "outcome": "UNDECIDED"})
    write_benchmark(run, measured.model_copy(update={"verdict": verdict}))
    assert default_of(run, BOTH)["name"] == "student.onnx"


def test_where_nothing_else_passes_the_default_is_the_fp32_file(run: Run, exported: tuple[Run, Benchmark]) -> None:
    record = ExportFolder(run.export).record().files
    undecided = {name: "UNDECIDED" for name in record if name not in ("student.onnx", "openvino/student.xml")}
    others = {entry.name for entry in exported[1].candidates if entry.name not in ("student.onnx",)}
    set_benchmark(run, exported[1], FAST, dict.fromkeys(others, "UNDECIDED"))
    set_outcomes(run, {**undecided, "openvino/student.xml": "UNDECIDED"})
    assert default_of(run, BOTH)["name"] == "student.onnx"
    run.benchmark_file.unlink()
    assert default_of(run, BOTH)["name"] == "student.onnx"
    set_outcomes(run, undecided)
    assert default_of(run, OPENVINO)["name"] == "student.xml"


def test_a_benchmark_that_has_not_measured_every_file_that_passed_is_not_followed(
    run: Run, exported: tuple[Run, Benchmark], caplog: pytest.LogCaptureFixture
) -> None:
    """INT8 was exported after the benchmark: the fastest of the others is not known to be the fastest."""
    measured = exported[1]
    earlier = [entry for entry in measured.candidates if entry.file != "student.int8.onnx"]
    set_outcomes(run, {})
    set_benchmark(run, measured.model_copy(update={"candidates": earlier}), {"student.onnx": 1.0}, {})
    assert default_of(run, BOTH)["name"] == "student.int8.onnx"
    assert "which has not measured student.int8.onnx" in caplog.text
    set_outcomes(run, {"student.int8.onnx": "UNDECIDED"})
    assert default_of(run, BOTH)["name"] == "student.onnx"


def test_without_a_benchmark_the_outcome_counts_for_irs_too(run: Run) -> None:
    set_outcomes(run, {})
    assert default_of(run, OPENVINO)["name"] == "student.int8.xml"
    set_outcomes(run, {"openvino/student.int8.xml": "UNDECIDED"})
    assert default_of(run, OPENVINO)["name"] == "student.fp16.xml"
    assert default_of(run, BOTH)["name"] == "student.int8.onnx"


def test_the_accuracy_in_the_readme_is_that_of_the_default_in_its_runtime(
    run: Run, exported: tuple[Run, Benchmark]
) -> None:
    name = "student.int8.onnx:openvino"
    measured = exported[1]
    entry = measured.candidate(name)
    top1 = entry.accuracy.top1.model_copy(update={"value": 0.1234})  # type: ignore[union-attr]
    changed = entry.model_copy(update={"accuracy": entry.accuracy.model_copy(update={"top1": top1})})
    entries = [changed if each.name == name else each for each in measured.candidates]
    set_outcomes(run, {})
    set_benchmark(run, measured.model_copy(update={"candidates": entries}), {name: 0.5}, {})
    found = default_of(run, BOTH)
    assert (found["name"], found["file"], found["runtime"]) == (name, "student.int8.onnx", "openvino")
    assert "Its top-1 is 12.34% " in found["line"]
    assert found["line"].startswith("`1/student.int8.onnx` in openvino as INT8 is the default")
    set_benchmark(run, measured, {name: 0.5}, {name: "UNDECIDED"})
    assert default_of(run, BOTH)["name"] != name
