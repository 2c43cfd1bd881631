"""benchmark_run on a small real run: every number against its own computation, and the errors that users can make."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.data import load_data
from compress.recipe import BenchmarkLimits
from compress.runs.folder import Run
from compress.runs.locks import held
from compress.system.errors import InputError, MachineError, UsageError
from compress.system.files import sha256_file
from export import export_run
from export.benchmark import memory
from export.benchmark.file import benchmark_schema, write_benchmark
from export.benchmark.latency import MAX_BUSY
from export.benchmark.measure import benchmark_run
from export.benchmark.noise import noise_warnings
from export.benchmark.results import AccuracyResult, Benchmark, Memory, NotRun
from export.delivery.default import measured_default
from export.folder import ExportFolder
from tests.helpers.benchmarked import benchmarked
from tests.helpers.bundles import sign
from tests.helpers.paths import ROOT

FILES = ["student.onnx", "student.fp16.onnx", "student.int8.onnx"]


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")[0]


@pytest.fixture(scope="module")
def result(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")[1]


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    shutil.copytree(run.path, tmp_path / "copy")
    (tmp_path / "copy" / "benchmark.json").unlink(missing_ok=True)
    return Run(tmp_path / "copy")


@pytest.mark.slow
def test_accuracy_is_that_of_plain_onnxruntime_on_every_image(run: Run, result: Benchmark) -> None:
    data = load_data(run.recipe.data)
    images = ((data.eval_images / 255 - data.mean) / data.std).astype(np.float32).transpose(0, 3, 1, 2)
    for name in FILES:
        session = onnxruntime.InferenceSession(str(run.path / "export" / name))
        answers = np.asarray(session.run(None, {"input": np.ascontiguousarray(images)})[0]).argmax(1)
        accuracy = result.candidate(name).accuracy
        assert isinstance(accuracy, AccuracyResult)
        assert accuracy.top1.value == pytest.approx((answers == data.eval_labels).mean())
        assert accuracy.images == len(data.eval_labels)
        assert accuracy.top5 is None
    for role in ("teacher", "student"):
        accuracy = result.candidate(f"{role}.torch").accuracy
        assert isinstance(accuracy, AccuracyResult)
        assert accuracy.top1.value == pytest.approx(run.manifest[f"{role}_top1"])


@pytest.mark.slow
def test_every_model_is_timed_at_every_batch_and_scope(result: Benchmark) -> None:
    for candidate in result.candidates:
        assert not isinstance(candidate.latency, NotRun)
        assert [(e.scope, e.batch, e.threads) for e in candidate.latency] == [
            ("model", 1, 1),
            ("end-to-end", 1, 1),
            ("model", 3, 1),
            ("end-to-end", 3, 1),
        ]
        for entry in candidate.latency:
            assert entry.runs >= 8
            assert 0 < entry.p50_ms.value <= entry.p90_ms.value
            assert entry.p99_ms is None or entry.runs >= 1000
            assert (entry.speedup is None) == (candidate.name == "teacher.torch" or entry.busy > MAX_BUSY)
    assert [(entry.candidate, entry.batch) for entry in result.aa] == [("student.onnx", 1), ("student.onnx", 3)]


@pytest.mark.slow
def test_steps_and_comparisons_are_those_of_the_page(result: Benchmark) -> None:
    assert [step.name for step in result.waterfall] == ["Teacher", "Student", "ONNX", "FP16", "INT8"]
    assert [step.drop is None for step in result.waterfall] == [True, False, False, False, False]
    pairs = {(entry.reference, entry.candidate) for entry in result.comparisons}
    of_teacher = [name.replace("student", "teacher") for name in FILES]
    assert pairs == {("teacher.torch", other) for other in ["student.torch", *FILES, *of_teacher]} | {
        ("student.onnx", "student.fp16.onnx"),
        ("student.onnx", "student.int8.onnx"),
    }
    assert {row.name for row in result.classes} == {"dark", "grey", "light"}
    assert result.verdict.recommended in FILES
    assert set(result.verdict.by_file) == set(FILES)


@pytest.mark.slow
def test_noise_is_warned_of_where_it_could_change_something(result: Benchmark) -> None:
    first = {e.name: e.latency[0] for e in result.candidates if isinstance(e.latency, list)}
    limits = BenchmarkLimits.model_validate(result.settings.limits)
    expected = noise_warnings(result.verdict, first, limits, result.reference)
    assert [line for line in result.warnings if "--seconds" in line] == expected


@pytest.mark.slow
def test_provenance_names_what_was_measured_and_where(run: Run, result: Benchmark) -> None:
    assert result.recipe_sha256 == run.manifest["recipe_sha256"]
    assert result.data.sha256 == run.manifest["data"]["sha256"]
    record = json.loads((run.path / "export" / "export.json").read_text())
    assert result.calibration_sha256 == record["calibration"]["indices_sha256"]
    assert result.machine.cores_allowed >= 1
    assert {"torch", "onnxruntime"} <= result.machine.versions.keys()
    for candidate in result.candidates:
        if candidate.runtime == "ort":
            assert candidate.sha256 == sha256_file(run.path / "export" / candidate.name)
        assert isinstance(candidate.memory, Memory)
        assert candidate.memory.peak_mb >= candidate.memory.library_mb > 0


@pytest.mark.slow
def test_the_file_satisfies_its_schema_and_says_the_source_of_each_number(run: Run, result: Benchmark) -> None:
    content = json.loads((run.path / "benchmark.json").read_text())
    assert set(content) == set(benchmark_schema()["required"]) | {"schema_version", "reference"}
    for candidate in content["candidates"]:
        assert candidate["accuracy"]["source"] == "measured"
        assert {entry["source"] for entry in candidate["latency"]} == {"measured"}


@pytest.mark.slow
def test_runtimes_that_were_not_asked_for_are_not_run(copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "peak_memory_mb", lambda: 1.0)
    found = benchmark_run(copy, runtimes=["trt"], batches=[1], threads=[1], min_seconds=0.0, min_runs=2)
    for candidate in found.candidates:
        assert isinstance(candidate.accuracy, AccuracyResult)
        assert candidate.accuracy.source == "measured"
        assert isinstance(candidate.latency, NotRun)
        assert isinstance(candidate.memory, NotRun)
    assert found.aa == []
    assert found.verdict.recommended in FILES


def test_a_run_without_an_export_is_refused_with_a_hint(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(InputError, match="compress export") as caught:
        benchmark_run(Run(tmp_path / "run"))
    assert caught.value.code == 3
    assert not (tmp_path / "run" / "benchmark.json").exists()


@pytest.mark.slow
def test_altered_files_are_refused(copy: Run) -> None:
    for name in ("export/student.int8.onnx", "student/model.safetensors", "teacher/model.safetensors"):
        path = copy.path / name
        whole = path.read_bytes()
        path.unlink()  # a hard link may share it with another run
        path.write_bytes(whole[:-1] + b"!")
        with pytest.raises(InputError, match=path.name):
            benchmark_run(copy)
        path.write_bytes(whole)
    (copy.path / "export" / "export.json").write_text('{"files": ')
    with pytest.raises(InputError, match=r"export\.json cannot be read.*compress export"):
        benchmark_run(copy)
    for files in ({"student.onnx": 1}, {"student.onnx": {}}, 5):
        (copy.path / "export" / "export.json").write_text(json.dumps({"files": files}))
        with pytest.raises(InputError, match=r"export\.json cannot be read.*compress export"):
            benchmark_run(copy)
    assert not (copy.path / "benchmark.json").exists()


@pytest.mark.slow
def test_other_data_than_that_of_the_run_is_refused(copy: Run) -> None:
    data = copy.result.data.model_copy(update={"sha256": "0" * 64}).dump()
    copy.update({"data": data})
    with pytest.raises(InputError, match="trained on other folder data"):
        benchmark_run(copy)


@pytest.mark.slow
def test_bad_arguments_and_a_folder_in_use_are_refused(copy: Run) -> None:
    with pytest.raises(UsageError, match="'rtr'"):
        benchmark_run(copy, runtimes=["rtr"])
    with pytest.raises(UsageError, match="at least 1"):
        benchmark_run(copy, batches=[0])
    with pytest.raises(UsageError, match="nan seconds"):
        benchmark_run(copy, min_seconds=float("nan"))
    with held(copy.path), pytest.raises(MachineError, match="in use"):
        benchmark_run(copy)


def test_the_process_that_measures_memory_imports_what_a_deployer_imports(trained_onnx: Path) -> None:
    program = (
        "import json, runpy, sys; runpy.run_module('export.benchmark.memory', run_name='__main__');"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    arguments = [sys.executable, "-c", program, str(trained_onnx), "1", "1"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=ROOT)
    measured, imported = map(json.loads, done.stdout.splitlines())
    assert 0 < measured[0] <= measured[1]
    assert {"numpy", "onnxruntime"} <= set(imported)
    assert not {"torch", "timm", "onnx", "scipy", "pydantic"} & set(imported)


def test_memory_of_a_model_that_cannot_be_opened_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    found = memory.peak_memory(tmp_path / "a.onnx", batch=1, threads=1)
    assert isinstance(found, NotRun)
    assert "failed" in found.reason


@pytest.mark.slow
def test_a_bundle_from_before_with_another_default_is_said(copy: Run, caplog: pytest.LogCaptureFixture) -> None:
    export_run(copy, bundle="folder", threads=1)
    bundle = copy.path / "export" / "bundle"
    for name in FILES:
        (bundle / "1" / name).write_bytes(b"of an earlier export")
    sign(bundle)
    limits = ["benchmark.max_top1_drop=1"]
    benchmark_run(copy, runtimes=["trt"], batches=[1], threads=[1], min_seconds=0.0, min_runs=2, overrides=limits)
    (line,) = [record.getMessage() for record in caplog.records if "default model" in record.getMessage()]
    assert f"The default model of {bundle} is " in line
    assert f"`compress export {copy.path}" in line


@pytest.mark.slow
@pytest.mark.parametrize("speedup", [0.5, 2.0])
def test_untimed_a_file_that_its_export_found_slower_is_neither_recommended_nor_the_default(
    copy: Run, speedup: float
) -> None:
    """INT8 is the smallest. The bundle is of those that passed."""
    record = json.loads((copy.path / "export" / "export.json").read_text())
    for name in FILES[1:]:
        record["files"][name] |= {"speedup_over_fp32": speedup, "outcome": "PASS"}
    (copy.path / "export" / "export.json").write_text(json.dumps(record))
    limits = [
        "benchmark.max_top1_drop=1",
        "export.max_int8_top1_drop=0.9",
        "export.min_agreement=0.01",
        "export.min_int8_agreement=0.01",
    ]
    found = benchmark_run(
        copy, runtimes=["trt"], batches=[1], threads=[1], min_seconds=0.0, min_runs=2, overrides=limits
    )
    expected = "student.int8.onnx" if speedup > 1 else "student.onnx"
    assert found.verdict.recommended == expected
    default = measured_default(copy, ExportFolder(copy.path / "export"))
    assert default is not None
    assert default.name == expected


@pytest.mark.slow
def test_an_export_without_what_the_benchmark_recommends_says_what_the_bundle_lacks(
    copy: Run, result: Benchmark, caplog: pytest.LogCaptureFixture
) -> None:
    verdict = result.verdict.model_copy(update={"outcome": "PASS", "recommended": "student.int8.onnx"})
    write_benchmark(copy, result.model_copy(update={"verdict": verdict}))
    record = json.loads((copy.path / "export" / "export.json").read_text())
    del record["files"]["student.int8.onnx"]
    (copy.path / "export" / "export.json").write_text(json.dumps(record))
    export_run(copy, bundle="folder", threads=1)
    (line,) = [record.getMessage() for record in caplog.records if "default model" in record.getMessage()]
    assert "recommends student.int8.onnx, which the export no longer has. Make both anew" in line
    assert "--precision int8" in line
    caplog.clear()
    export_run(copy, precisions=("fp32", "fp16", "int8"), bundle="folder", threads=1)
    assert "which the export no longer has" not in caplog.text
