"""What `compress export --teacher` made stays, and `compress benchmark` adds what is missing to compare with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.runs.folder import Run
from compress.system.files import sha256_file
from export import export_run
from export.benchmark.teacher_files import make_teacher_files
from export.folder import read_export
from export.records import FileRecord
from export.tensorrt.sidecar import check_engine
from tests.helpers.command import snapshot

pytestmark = pytest.mark.slow


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Run:
    """Its student is exported in FP32 and INT8."""
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    recipe = yaml.safe_load(run.recipe_file.read_text())
    recipe["export"]["int8_minutes"] = 0  # no layouts are timed
    run.recipe_file.write_text(yaml.safe_dump(recipe))
    export_run(run, precisions=("fp32", "int8"), threads=1)
    return run


def recorded(run: Run) -> dict[str, FileRecord]:
    """The teacher's files, each the one whose hash is recorded."""
    files = dict(read_export(run, "teacher").files)
    assert {name: entry.sha256 for name, entry in files.items()} == {
        name: sha256_file(run.export / name) for name in files
    }
    return files


@pytest.mark.parametrize(
    ("format", "more", "own"),
    [
        ("openvino", {}, {"openvino/teacher.xml", "openvino/teacher.bin"}),
        ("trt", {"compute_capabilities": ["89"]}, {"teacher.engine"}),
    ],
)
def test_files_of_an_explicit_export_stay_and_stay_recorded(
    run: Run, format: Any, more: dict[str, Any], own: set[str], request: pytest.FixtureRequest
) -> None:
    if format == "trt":
        request.getfixturevalue("builder")
    settings = ["export.max_fp16_top1_drop=0.01"]
    export_run(run, formats=("onnx", format), teacher=True, threads=1, overrides=settings, **more)
    record, before = read_export(run, "teacher"), recorded(run)
    assert set(before) == {"teacher.onnx", *own}
    content = snapshot(run.export)
    make_teacher_files(run, threads=1)
    after = recorded(run)
    assert set(after) == {*before, "teacher.int8.onnx"}
    assert {name: after[name] for name in before} == before
    assert {name: data for name, data in snapshot(run.export).items() if name in content} == {
        **content,
        "teacher.export.json": (run.export / "teacher.export.json").read_bytes(),
    }
    now = read_export(run, "teacher")
    kept = ("settings", "formats", "precisions", "versions")
    assert [getattr(now, name) for name in kept] == [getattr(record, name) for name in kept]
    assert now.calibration


def test_what_was_made_to_compare_with_has_passed_no_limit_and_is_made_anew_where_it_is_exported(run: Run) -> None:
    make_teacher_files(run, threads=1)
    assert {name: entry.to_compare for name, entry in recorded(run).items()} == {
        "teacher.onnx": True,
        "teacher.int8.onnx": True,
    }
    export_run(run, teacher=True, threads=1)
    assert {name: entry.to_compare for name, entry in recorded(run).items()} == {
        "teacher.onnx": None,
        "teacher.int8.onnx": True,
    }
    export_run(run, precisions=("int8",), teacher=True, threads=1)
    files = recorded(run)
    assert {name: entry.to_compare for name, entry in files.items()} == {
        "teacher.onnx": None,
        "teacher.int8.onnx": None,
    }
    content = snapshot(run.export)
    make_teacher_files(run, threads=1)
    assert snapshot(run.export) == content


def test_the_teacher_gets_engines_for_the_gpus_of_the_students(run: Run, builder: None) -> None:
    export_run(run, formats=("onnx", "trt"), precisions=("fp32", "int8"), threads=1, compute_capabilities=["86"])
    make_teacher_files(run, threads=1)
    assert set(recorded(run)) == {"teacher.onnx", "teacher.int8.onnx"}
    make_teacher_files(run, threads=1, engines=True)
    files = recorded(run)
    assert {"teacher.engine", "teacher.int8.engine"} <= set(files)
    assert files["teacher.engine"].to_compare
    built = check_engine(run.export / "teacher.engine")
    assert built.compute_capabilities == ("86",)
    assert built.batches == check_engine(run.export / "student.engine").batches
    content = snapshot(run.export)
    make_teacher_files(run, threads=1, engines=True)
    assert snapshot(run.export) == content
