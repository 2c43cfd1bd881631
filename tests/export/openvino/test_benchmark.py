"""OpenVINO in a benchmark: every graph in it, bf16 as a candidate of its own, altered IRs, a missing package."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.recipe import BenchmarkLimits, Export
from compress.runs.data import data_of_student
from compress.runs.folder import Run
from compress.system.errors import InputError
from compress.system.files import sha256_file
from export import benchmark_run, export_run
from export.benchmark import AccuracyResult, Benchmark, find_candidates
from export.benchmark.executions import gates
from export.benchmark.limits import Limits
from export.folder import read_export
from export.openvino import core, own_execution
from export.runtimes import normalise
from tests.helpers.bundles import sign
from tests.helpers.paths import ROOT

LOWER = own_execution()
has_lower = pytest.mark.skipif(LOWER == "f32", reason="this CPU computes in f32 alone")


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("home") / finished.name)
    shutil.copytree(finished, run.path)
    export_run(run, formats=("onnx", "openvino"), precisions=("fp32", "fp16", "int8"), threads=1)
    return run


@pytest.fixture(scope="module")
def measured(run: Run) -> Benchmark:
    return benchmark_run(run, runtimes=("ort", "openvino"), batches=(1,), threads=(1,), min_seconds=0.01, min_runs=8)


def test_every_graph_is_measured_in_openvino_and_in_what_it_would_compute_in(measured: Benchmark) -> None:
    in_openvino = [entry for entry in measured.candidates if entry.runtime == "openvino"]
    of_teacher = {entry.name for entry in in_openvino if entry.role == "teacher"}
    bf16 = set() if LOWER == "f32" else {f"teacher.onnx:openvino:{LOWER}"}
    assert of_teacher == {"teacher.onnx:openvino", "teacher.int8.onnx:openvino"} | bf16
    found = {entry.name for entry in in_openvino} - of_teacher
    onnx = {f"student{graph}.onnx:openvino" for graph in ("", ".int8", ".int8.trt")}
    irs = {f"openvino/student{precision}.xml" for precision in ("", ".fp16", ".int8")}
    lower = {f"openvino/student{precision}.xml:{LOWER}" for precision in ("", ".int8")}
    if LOWER == "f32":
        assert found == onnx | irs
    else:
        others = {f"student.int8{graph}.onnx:openvino:{LOWER}" for graph in ("", ".trt")}
        assert onnx | irs | lower <= found
        assert len(found & others) == 1  # the other one is in the IR
        assert not found - onnx - irs - lower - others
    assert all(entry.latency for entry in in_openvino)


def test_accuracies_are_those_of_openvino_itself(measured: Benchmark, run: Run) -> None:
    data = data_of_student(run)
    inputs = normalise(data.eval_images, data.mean, data.std)
    for name in ("openvino/student.xml", f"openvino/student.xml:{LOWER}" if LOWER != "f32" else "openvino/student.xml"):
        entry = measured.candidate(name)
        compiled = core().compile_model(str(run.export / entry.file), "CPU", entry.options)
        top1 = float((compiled(inputs)[0].argmax(1) == data.eval_labels).mean())
        assert isinstance(entry.accuracy, AccuracyResult)
        assert entry.accuracy.top1.value == pytest.approx(top1, abs=1.5 / len(data.eval_labels))


def test_the_options_of_each_session_are_named(measured: Benchmark) -> None:
    expected = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": "1"}
    assert measured.candidate("openvino/student.xml").options == {**expected, "INFERENCE_PRECISION_HINT": "f32"}
    assert measured.candidate("student.onnx").options["intra_op_num_threads"] == "1"
    if LOWER != "f32":
        lower = measured.candidate(f"openvino/student.xml:{LOWER}")
        assert lower.options == {**expected, "INFERENCE_PRECISION_HINT": LOWER}
        assert lower.precision == {"bf16": "bf16", "f16": "fp16"}[LOWER]


def test_the_verdict_is_over_all_runtimes(measured: Benchmark) -> None:
    deployable = {entry.name for entry in measured.candidates if entry.deployable}
    assert set(measured.verdict.by_file) == deployable
    assert "student.int8.trt.onnx" not in deployable
    assert "student.int8.trt.onnx:openvino" in deployable
    medians = {e.name: e.latency[0].p50_ms.value for e in measured.candidates if isinstance(e.latency, list)}
    order = ["PASS", "UNDECIDED", "FAIL"].index
    gates = {entry.name: entry.gate or "PASS" for entry in measured.candidates}
    ranks = {name: (order(measured.verdict.by_file[name]), order(gates[name])) for name in deployable}
    fastest = min((name for name in deployable if ranks[name] == min(ranks.values())), key=medians.__getitem__)
    assert measured.verdict.recommended == fastest
    faster = {name for name in deployable if medians[name] < medians[fastest]}
    assert set(measured.verdict.passed_over) == faster


def test_the_weights_of_an_ir_are_named_beside_it(measured: Benchmark, run: Run) -> None:
    irs = [entry for entry in measured.candidates if entry.file.endswith(".xml")]
    assert irs
    for entry in irs:
        assert entry.weights_sha256 == sha256_file((run.export / entry.file).with_suffix(".bin"))
    assert {entry.weights_sha256 for entry in measured.candidates if not entry.file.endswith(".xml")} == {""}


def test_an_export_keeps_no_half_of_an_ir(run: Run, tmp_path: Path) -> None:
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    (copy.export / "openvino" / "student.bin").write_bytes(b"other weights")
    (copy.export / "openvino" / "student.int8.xml").write_bytes(b"another graph")
    irs = {name for name in export_run(copy, threads=1).files if name.startswith("openvino/")}
    assert irs == {"openvino/student.fp16.xml", "openvino/student.fp16.bin"}


def test_a_bundle_of_other_weights_is_of_an_earlier_export(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    export_run(copy, formats=("onnx", "openvino"), bundle="folder", threads=1)
    assert "of an earlier export: --bundle" not in caplog.text
    bundle = copy.export / "bundle"
    (bundle / "1" / "student.bin").write_bytes(b"other weights")
    sign(bundle)
    export_run(copy, threads=1)
    assert f"{bundle} is of an earlier export: --bundle makes it anew" in caplog.text


def test_what_loses_more_than_the_export_allows_is_refused(run: Run) -> None:
    candidates = find_candidates(run, ("openvino",))
    labels = np.arange(400) % 10
    right = np.eye(10, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:40] = np.roll(wrong[:40], 1, axis=1)
    logits = {entry.name: right for entry in candidates} | {"openvino/student.int8.xml": wrong}
    found = gates(candidates, read_export(run).files, logits, labels, Limits(BenchmarkLimits(), Export(), Export()))
    assert [name for name, gate in found.items() if gate.outcome == "FAIL"] == ["openvino/student.int8.xml"]
    assert "loses 10.00 points" in found["openvino/student.int8.xml"].reason


def test_what_no_export_has_gated_is_undecided_where_too_few_images_tell(run: Run) -> None:
    """Of a file it is the export's outcome that counts, and in OpenVINO what was measured there."""
    candidates = find_candidates(run, ("openvino",))
    labels = np.arange(400) % 10
    right = np.eye(10, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:4] = np.roll(wrong[:4], 1, axis=1)
    files = read_export(run).files
    files["student.onnx"] = files["student.onnx"].model_copy(update={"outcome": None})
    logits = {entry.name: right for entry in candidates} | {"student.onnx:openvino": wrong}
    found = gates(candidates, files, logits, labels, Limits(BenchmarkLimits(), Export(), Export()))
    assert found["student.onnx:openvino"].outcome == "UNDECIDED"
    assert "agrees with FP32 on 99.00% of 400 images" in found["student.onnx:openvino"].reason
    assert found["student.onnx"].outcome == "PASS"
    assert found["openvino/student.xml"].outcome == "PASS"
    for name in ("student.fp16.onnx", "student.int8.onnx"):
        assert found[name].outcome == files[name].outcome
    assert not [name for name in found if name.startswith("teacher") or name.endswith(".torch")]


SEVERE = ("max_int8_top1_drop=0.0005", "min_int8_agreement=0.9999")


@has_lower
def test_an_execution_that_is_undecided_is_named_and_not_recommended(run: Run, tmp_path: Path) -> None:
    """At limits of next to nothing no rounding passes on so few images, and FP32 does."""
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    measured = benchmark_run(
        copy,
        runtimes=("ort", "openvino"),
        batches=(1,),
        threads=(1,),
        min_seconds=0.01,
        min_runs=8,
        overrides=["benchmark.max_top1_drop=0.9", *(f"export.{gate}" for gate in SEVERE)],
    )
    in_int8 = [entry for entry in measured.candidates if entry.name.startswith("student.int8.onnx:openvino")]
    assert {entry.gate for entry in in_int8} <= {"UNDECIDED", "FAIL"}
    chosen = measured.verdict.recommended
    assert chosen is not None
    assert measured.candidate(chosen).gate == "PASS"
    for entry in in_int8:
        assert any(
            warning.startswith((f"At its gate {entry.name} is UNDECIDED", f"{entry.name} is not recommended"))
            for warning in measured.warnings
        )


@pytest.mark.parametrize("ending", ["xml", "bin"])
def test_an_altered_ir_is_refused(ending: str, run: Run, tmp_path: Path) -> None:
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    path = copy.export / "openvino" / f"student.int8.{ending}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=rf"student\.int8\.{ending} is missing or was altered"):
        benchmark_run(copy, runtimes=("ort",), min_seconds=0, min_runs=1)


def without_openvino(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`compress ARGUMENTS` in a Python that cannot import it."""
    code = "import sys; sys.modules['openvino'] = None; from compress.cli.main import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("export", "--format", "openvino"), marks=pytest.mark.faults),
        ("benchmark", "--runtime", "openvino"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(arguments: tuple[str, ...], run: Run) -> None:
    done = without_openvino(arguments[0], run.path, *arguments[1:])
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("error: OpenVINO is not installed. ")
    assert "compress-timm[openvino]" in done.stderr


def test_a_benchmark_without_the_package_says_why_an_ir_was_not_run(run: Run, tmp_path: Path) -> None:
    copy = Run(Path(shutil.copytree(run.path, tmp_path / "copy")))
    done = without_openvino("benchmark", copy.path, "--seconds", 0, "--batch", 1, "--threads", 1, "--json")
    assert done.returncode == 0, done.stderr
    entries = Benchmark.model_validate_json(done.stdout.replace(f', "run": "{copy.path}"', "")).candidates
    assert {entry.name for entry in entries if entry.runtime == "openvino"} == {
        f"openvino/student{precision}.xml" for precision in ("", ".fp16", ".int8")
    }
    assert all("not installed" in str(entry.accuracy) for entry in entries if entry.runtime == "openvino")
