"""A bundle whose default model is another one than the benchmark recommends is said in a line, with what mends it."""

import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import pytest

from compress import load_recipe
from compress.recipe import recipe_yaml
from compress.runs.folder import Run
from export.benchmark import Benchmark
from export.benchmark.bundled import other_defaults
from export.benchmark.results import CandidateResult, NotRun, Verdict
from export.records import ExportRecord, FileRecord
from tests.helpers.bundles import bundle_manifest

HASHES = {"student.onnx": "1" * 64, "student.int8.onnx": "2" * 64, "openvino/student.int8.xml": "3" * 64}
WEIGHTS = "openvino/student.int8.bin"
ALL = {**HASHES, WEIGHTS: "4" * 64}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Exported as FP32 and INT8, for ONNX Runtime and OpenVINO."""
    (tmp_path / "export").mkdir()
    exported(tmp_path, ALL)
    return Run(tmp_path)


def exported(path: Path, hashes: dict[str, str]) -> None:
    files = {name: FileRecord(sha256=hash_, bytes=1) for name, hash_ in hashes.items()}
    record = ExportRecord(files=files, formats=["onnx", "openvino"], precisions=["fp32", "int8"])
    record.write(path / "export" / "export.json")


def bundled(run: Run, default: str, files: dict[str, str] = ALL, *, zipped: bool = False) -> None:
    names = [Path(name).name for name in files if not name.endswith(".bin")]
    hashes = {f"1/{Path(name).name}": hash_ for name, hash_ in files.items()}
    manifest = bundle_manifest(default, *(name for name in names if name != default), files=hashes)
    if zipped:
        with zipfile.ZipFile(run.export / "bundle.zip", "w") as archive:
            archive.writestr("manifest.json", json.dumps(manifest.dump()))
    else:
        (run.export / "bundle").mkdir(exist_ok=True)
        manifest.write(run.export / "bundle" / "manifest.json")


def benchmark(recommended: str | None, outcome: Any = "PASS", runtime: Any = "ort", gate: Any = "PASS") -> Benchmark:
    nothing, file = NotRun(reason=""), (recommended or "").partition(":")[0]
    candidate = CandidateResult(
        name=recommended or "",
        role="student",
        runtime=runtime,
        precision="int8",
        file=file,
        device="cpu",
        deployable=True,
        gate=gate,
        size_bytes=1,
        sha256=HASHES.get(file, ""),
        weights_sha256=ALL[WEIGHTS] if file.endswith(".xml") else "",
        accuracy=nothing,
        latency=nothing,
        memory=nothing,
    )
    by_file = {recommended: outcome} if recommended else {}
    verdict = Verdict(outcome=outcome, recommended=recommended, judgements=[], by_file=by_file, pareto=[])
    return Benchmark.model_construct(verdict=verdict, candidates=[candidate])


IR = benchmark("openvino/student.int8.xml", runtime="openvino")
INT8 = benchmark("student.int8.onnx")


def test_another_default_is_said_with_the_command_that_keeps_every_file(run: Run) -> None:
    bundled(run, "student.onnx")
    command = "--format onnx --format openvino --precision fp32 --precision int8"
    assert other_defaults(run, INT8) == [
        f"The default model of {run.export / 'bundle'} is student.onnx, and the benchmark recommends student.int8.onnx"
        f". Make it anew with `compress export {run.path} {command} --bundle`."
    ]
    bundled(run, "student.onnx", zipped=True)
    assert [line.rsplit(" ", 1)[1] for line in other_defaults(run, IR)] == ["--bundle`.", "--zip`."]


def test_the_command_has_the_settings_of_the_export(run: Run, tiny_recipe: Path) -> None:
    """Without them a file that passed a looser limit would be made anew, fail, and be removed."""
    recipe = load_recipe(tiny_recipe)
    (run.path / "recipe.yaml").write_text(recipe_yaml(recipe))
    settings = {**recipe.export.model_dump(mode="json"), "max_int8_top1_drop": 0.02, "compute_capabilities": ["89"]}
    path = run.export / "export.json"
    ExportRecord.read(path).model_copy(update={"settings": settings}).write(path)
    bundled(run, "student.onnx")
    (line,) = other_defaults(run, INT8)
    arguments = shlex.split(line.split("`")[1])
    overrides = [arguments[place + 1] for place, word in enumerate(arguments) if word == "--set"]
    assert load_recipe(tiny_recipe, overrides=overrides).export.model_dump(mode="json") == settings
    assert len(overrides) == 2


def test_what_is_undecided_in_the_record_of_the_export_is_not_said(run: Run) -> None:
    path = run.export / "export.json"
    record = ExportRecord.read(path)
    files = {name: entry.model_copy(update={"outcome": "UNDECIDED"}) for name, entry in record.files.items()}
    record.model_copy(update={"files": files}).write(path)
    bundled(run, "student.onnx")
    assert other_defaults(run, INT8) == []


def test_the_recommended_default_is_none_to_speak_of(run: Run) -> None:
    bundled(run, "student.int8.onnx")
    assert other_defaults(run, INT8) == []
    bundled(run, "student.int8.xml")
    assert other_defaults(run, IR) == []
    bundled(run, "student.int8.xml:bf16")
    assert other_defaults(run, benchmark("openvino/student.int8.xml:bf16", runtime="openvino")) == []


def test_a_default_of_that_name_with_other_bytes_is_another_one(run: Run) -> None:
    for name, measured in (("student.int8.onnx", INT8), (WEIGHTS, IR)):
        default = Path(name).name.replace(".bin", ".xml")
        bundled(run, default, {**ALL, name: "0" * 64})
        (line,) = other_defaults(run, measured)
        assert "Make it anew with" in line


def test_a_file_that_the_export_lost_or_made_anew_is_said(run: Run) -> None:
    bundled(run, "student.onnx")
    exported(run.path, {"student.onnx": HASHES["student.onnx"]})
    (line,) = other_defaults(run, INT8)
    assert "student.int8.onnx, which the export no longer has. Make both anew with `compress export" in line
    assert "--precision int8" in line
    exported(run.path, {**ALL, "student.int8.onnx": "9" * 64})
    (line,) = other_defaults(run, INT8)
    assert f"which was made anew since. Measure it with `compress benchmark {run.path}`, then make" in line


@pytest.mark.parametrize(
    "measured",
    [
        benchmark(None),
        benchmark("student.int8.onnx", "FAIL"),
        benchmark("student.int8.engine", runtime="trt"),
        benchmark("student.int8.onnx", "UNDECIDED", gate="UNDECIDED"),
    ],
)
def test_what_no_bundle_would_follow_is_not_said(run: Run, measured: Benchmark) -> None:
    bundled(run, "student.onnx")
    assert other_defaults(run, measured) == []


def test_no_bundle_and_a_damaged_one_are_not_said(run: Run) -> None:
    assert other_defaults(run, INT8) == []
    (run.export / "bundle").mkdir()
    (run.export / "bundle.zip").write_bytes(b"no zip")
    assert other_defaults(run, INT8) == []
