"""Exports that end early: nothing bad has a final name, and what passed is there and recorded."""

import copy
import dataclasses
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from compress.recipe import Export
from compress.runs.folder import Run
from compress.system.distribution import DISTRIBUTION
from compress.system.errors import CompressError, GateError, MachineError, UsageError
from export import export_run
from export.delivery import verify_bundle
from export.records import ExportRecord
from export.tensorrt import tensorrt
from export.tensorrt.sidecar import check_engine
from tests.helpers.classifiers import Digits, Overflowing, normalised
from tests.helpers.exporting import SETTINGS, export_to
from tests.helpers.paths import ROOT


def have_tensorrt() -> bool:
    try:
        return hasattr(tensorrt(), "ComputeCapability")
    except MachineError:
        return False


@pytest.mark.parametrize(
    ("limits", "words", "kept"),
    [
        ({"max_logit_diff": 1e-12}, ("logits differ", "1e-12 allowed"), set()),
        ({"min_int8_macs": 1.0, "min_int8_agreement": 1.0}, (), {"student.onnx", "student.fp16.onnx"}),
    ],
)
def test_a_breach_leaves_nothing_at_the_final_name_not_even_an_earlier_file(
    trained: nn.Module, data: Digits, tmp_path: Path, limits: dict, words: tuple[str, ...], kept: set[str]
) -> None:
    for name in ("student.onnx", "student.int8.onnx"):
        (tmp_path / name).write_bytes(b"of an earlier export")
    if not words:  # a student so bad in INT8 that it cannot agree on every image
        data = dataclasses.replace(data, train_images=np.zeros_like(data.train_images))
    settings = SETTINGS.model_copy(update=limits)
    with pytest.raises(GateError) as caught:
        export_to(tmp_path, trained, data, settings, precisions=("fp32", "fp16", "int8"))
    for word in words:
        assert word in str(caught.value)
    left = {path.name for path in tmp_path.iterdir()}
    broken = "student.int8.onnx" if kept else "student.onnx"
    assert broken not in left
    assert kept <= left
    assert not [name for name in left if name.endswith(".tmp")]
    record = json.loads((tmp_path / "export.json").read_text())
    assert record["failed"] == str(caught.value)
    assert set(record["files"]) == kept


def test_a_precision_that_crashes_leaves_the_others_and_its_reason(
    trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*args: object, **kwargs: object) -> None:
        raise onnx.shape_inference.InferenceError("no shape of this")

    monkeypatch.setattr("export.pipeline.to_fp16", crash)
    with pytest.raises(CompressError, match=r"converting student\.onnx to fp16 failed in onnx") as caught:
        export_to(tmp_path, trained, data, precisions=("fp32", "fp16", "int8"), preprocess=True)
    kept = {"student.onnx", "student.int8.onnx", "student.pixels.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == {*kept, "export.json"}
    record = json.loads((tmp_path / "export.json").read_text())
    assert set(record["files"]) == kept
    assert record["failures"] == {"student.fp16.onnx": str(caught.value)}
    assert record["failed"] == str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_bundle_is_whole_where_a_precision_fails(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["folder", "zip"]
) -> None:
    """The failure is raised once the bundle of the other files is made."""

    def crash(*args: object, **kwargs: object) -> None:
        raise onnx.shape_inference.InferenceError("no shape of this")

    monkeypatch.setattr("export.pipeline.to_fp16", crash)
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    with pytest.raises(CompressError, match=r"converting student\.onnx to fp16 failed in onnx"):
        export_run(run, precisions=("fp32", "fp16", "int8"), preprocess=True, bundle=kind, threads=1)
    made = run.export / ("bundle.zip" if kind == "zip" else "bundle")
    assert set(verify_bundle(made, threads=1)) == {"student.onnx", "student.int8.onnx", "student.pixels.onnx"}
    assert not list(run.export.glob(".*"))


def test_an_export_that_fails_at_once_makes_no_bundle_of_earlier_files_of_other_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(Path(shutil.copytree(finished, tmp_path / "run")))
    export_run(run, threads=1)
    record = ExportRecord.read(run.export / "export.json")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("export.pipeline.openvino", missing)
    with pytest.raises(MachineError, match="OpenVINO is not here"):
        export_run(run, formats=("onnx", "openvino"), bundle="folder", threads=1)
    assert verify_bundle(run.export / "bundle", threads=1), "of the same weights it is made"
    shutil.rmtree(run.export / "bundle")
    other = {**record.provenance, "weights_sha256": "0" * 64}
    record.model_copy(update={"provenance": other}).write(run.export / "export.json")
    with pytest.raises(MachineError, match="OpenVINO is not here"):
        export_run(run, formats=("onnx", "openvino"), bundle="folder", threads=1)
    assert not (run.export / "bundle").exists()


def missing() -> None:
    raise MachineError("OpenVINO is not here", "Install it")


def test_a_net_that_overflows_in_fp16_keeps_those_operators_in_float(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    assert isinstance(trained, nn.Sequential)
    record = export_to(tmp_path, Overflowing(trained, 3e5).eval(), data, precisions=("fp32", "fp16"))
    made = record.files["student.fp16.onnx"]
    assert made.float_layers
    assert made.largest_value is not None
    assert made.largest_value > 6.5e5
    with np.errstate(all="ignore"):
        evaluator = ReferenceEvaluator(str(tmp_path / "student.fp16.onnx"))
        found = np.asarray(evaluator.run(None, {"input": normalised(data.eval_images[:32])})[0])
    assert np.isfinite(found).all()


def test_an_overflow_that_calibration_does_not_show_is_refused(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    """The calibration images are black, so that nothing seems to stay in float."""
    assert isinstance(trained, nn.Sequential)
    dark = dataclasses.replace(data, train_images=np.zeros_like(data.train_images))
    model = Overflowing(copy.deepcopy(trained), 3e5).eval()
    with torch.no_grad():
        model.front[1].bias -= model.front(torch.from_numpy(normalised(dark.train_images[:1]))).amax((0, 2, 3))
    with pytest.raises(GateError, match="FP16 gives logits that are not finite"):
        export_to(tmp_path, model, dark, precisions=("fp32", "fp16"))
    assert not (tmp_path / "student.fp16.onnx").exists()


@pytest.mark.skipif(not have_tensorrt(), reason="needs TensorRT for RTX: pip install 'compress-timm[trt-rtx]'")
def test_engines_are_built_from_files_that_passed(trained: nn.Module, data: Digits, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"compute_capabilities": ["86", "89"]})
    record = export_to(tmp_path, trained, data, settings, formats=["trt"], precisions=("fp32", "fp16", "int8"))
    sources = {"student.engine": "student.onnx", "student.fp16.engine": "student.fp16.onnx"}
    sources["student.int8.engine"] = "student.int8.trt.onnx"
    for engine, source in sources.items():
        info = check_engine(tmp_path / engine)
        assert info.onnx_sha256 == hashlib.sha256((tmp_path / source).read_bytes()).hexdigest()
        assert info.compute_capabilities == ("86", "89")
        assert record.files[engine].sha256 == info.engine_sha256
        assert record.files[source].tensorrt_lint == []
    assert not (tmp_path / "student.int8.onnx").exists(), "that one is for ONNX Runtime"
    drop = record.files["student.int8.trt.onnx"].drop
    assert drop is not None
    assert drop.candidate_top1 > 0.9
    names = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in names if name.startswith(".")]


EXPORT = """
import sys, resource
from pathlib import Path
import torch
torch.set_num_threads(1)
from compress.system import console
from compress.system.errors import CompressError
from compress.recipe import Export
from compress.runs.folder import Run
from tests.helpers.classifiers import digits_split, small_net
from tests.helpers.exporting import export_to
if sys.argv[2] == "no tensorrt":
    sys.modules["tensorrt"] = sys.modules["tensorrt_rtx_bindings"] = None
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
torch.manual_seed(0)
console.show_log()
try:
    export_to(Path(sys.argv[1]), small_net(), digits_split(), Export(calibration_images=32, max_int8_top1_drop=0.9),
              formats=["trt"], precisions=["fp32", "int8"])
except CompressError as error:
    console.say(f"{error.code} {error}")
"""


def export_in_a_process(out: Path, how: str) -> list[str]:
    result = subprocess.run(
        [sys.executable, "-c", EXPORT, out, how],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stderr.splitlines()


def test_without_tensorrt_the_files_for_it_are_written_and_linted(tmp_path: Path) -> None:
    lines = export_in_a_process(tmp_path, "no tensorrt")
    assert "only the ONNX files for TensorRT" in lines[0]
    assert lines[-1].startswith("4 ")
    assert f"{DISTRIBUTION}[trt-rtx]" in lines[-1]
    assert {path.name for path in tmp_path.iterdir()} == {"student.onnx", "student.int8.trt.onnx", "export.json"}
    record = json.loads((tmp_path / "export.json").read_text())
    assert [entry["tensorrt_lint"] for entry in record["files"].values()] == [[], []]


def test_a_full_disk_is_one_line_and_earlier_files_stay(tmp_path: Path) -> None:
    """The process may write no file beyond 20 kB, which is how a full disk looks to it."""
    assert resource.RLIMIT_FSIZE is not None
    (tmp_path / "student.onnx").write_bytes(b"of an earlier export")
    lines = export_in_a_process(tmp_path, "full disk")
    assert lines[-1].startswith("4 cannot write")
    assert "student.onnx" in lines[-1]
    assert (tmp_path / "student.onnx").read_bytes() == b"of an earlier export"
    assert {path.name for path in tmp_path.iterdir()} == {"student.onnx", "export.json"}


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValueError, match="calibration_imgs"):
        Export(calibration_imgs=3)  # type: ignore[call-arg]
    assert issubclass(GateError, CompressError)


def test_a_gpu_that_the_library_does_not_know_is_refused_before_any_work(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    settings = SETTINGS.model_copy(update={"compute_capabilities": ["33"]})
    with pytest.raises(UsageError, match="no compute capability '33'"):
        export_to(tmp_path / "out", trained, data, settings, formats=("onnx", "trt"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(not have_tensorrt(), reason="needs TensorRT for RTX: pip install 'compress-timm[trt-rtx]'")
def test_engines_for_later_versions_are_refused_before_any_work_where_the_library_builds_none(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    if not tensorrt().__name__.startswith("tensorrt_rtx"):
        pytest.skip("needs TensorRT for RTX")
    settings = SETTINGS.model_copy(update={"compute_capabilities": ["89"], "version_compatible": True})
    with pytest.raises(UsageError, match=r"export\.version_compatible.*TensorRT"):
        export_to(tmp_path / "out", trained, data, settings, formats=("onnx", "trt"))
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
