"""A whole export of a trained net: what is written, that its numbers are true, and that nothing bad is left behind."""

import dataclasses
import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.metrics import accuracy_score
from torch import nn

from compress.recipe import Export
from compress.system.distribution import DISTRIBUTION
from compress.system.errors import CompressError, GateError, MachineError
from export.int8.quantize import Quantizer
from export.pipeline import export_student
from export.tensorrt.build import tensorrt
from export.tensorrt.sidecar import check_engine
from tests.helpers.classifiers import Digits, float_logits, normalised
from tests.helpers.paths import ROOT

SETTINGS = Export(calibration_images=200, batches=[1, 4, 16])


def have_tensorrt() -> bool:
    try:
        return hasattr(tensorrt(), "ComputeCapability")
    except MachineError:
        return False


def predictions(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": normalised(images)})[0].argmax(1)


@pytest.fixture(scope="module")
def result(trained: nn.Module, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("run") / "export"
    returned = export_student(
        trained,
        out_dir=out,
        data=data,
        settings=SETTINGS,
        precisions=("fp32", "fp16", "int8"),
        preprocess=True,
        provenance={"run": "digits-ka-s0"},
    )
    record = json.loads((out / "export.json").read_text())
    assert record == json.loads(json.dumps(returned))
    return out, record


def test_files_have_their_names_and_hashes(result: tuple[Path, dict]) -> None:
    out, record = result
    expected = {"student.onnx", "student.fp16.onnx", "student.int8.onnx", "student.pixels.onnx"}
    assert {path.name for path in out.iterdir()} == expected | {"export.json"}
    assert set(record["files"]) == expected
    for name, entry in record["files"].items():
        content = (out / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
    assert "failed" not in record


@pytest.mark.parametrize("name", ["student.fp16.onnx", "student.int8.onnx"])
def test_measured_accuracies_are_those_of_the_files(
    result: tuple[Path, dict], trained: nn.Module, data: Digits, name: str
) -> None:
    out, record = result
    by_torch = float_logits(trained, data.eval_images).argmax(1)
    here = predictions(out / name, data.eval_images)
    drop = record["files"][name]["drop"]
    assert drop["reference_top1"] == pytest.approx(accuracy_score(data.eval_labels, by_torch))
    assert drop["candidate_top1"] == pytest.approx(accuracy_score(data.eval_labels, here))
    assert drop["n"] == len(data.eval_labels) == record["eval_images"]
    assert record["files"][name]["agreement"] == pytest.approx(np.mean(here == by_torch))
    assert record["files"]["student.onnx"]["top1"] == pytest.approx(accuracy_score(data.eval_labels, by_torch))
    assert record["files"]["student.int8.onnx"]["float_layers"] == []
    assert record["files"]["student.int8.onnx"]["int8_macs"] == 1.0


def test_what_int8_would_lose_without_layers_in_float_is_measured(
    hostile: nn.Module, data: Digits, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"max_int8_top1_drop": 0.0, "min_int8_macs": 0.1})
    said: list[str] = []
    record = export_student(
        hostile, out_dir=tmp_path, data=data, settings=settings, precisions=("int8",), log=said.append
    )["files"]["student.int8.onnx"]
    assert record["float_layers"] == ["3/Conv"]
    indices = json.loads((tmp_path / "export.json").read_text())["calibration"]["indices"]
    quantizer = Quantizer(tmp_path / "student.onnx", data.train_images[indices], data.mean, data.std)
    quantizer.write(tmp_path / "all.onnx", target="ort")
    for entry, file in (("drop_all_int8", "all.onnx"), ("drop", "student.int8.onnx")):
        here = predictions(tmp_path / file, data.eval_images)
        assert record[entry]["candidate_top1"] == pytest.approx(accuracy_score(data.eval_labels, here))
    assert record["drop_all_int8"]["low"] > 0.0
    line = next(line for line in said if "in float to lose" in line)
    assert f"not {100 * record['drop_all_int8']['drop']:.2f}: 3/Conv" in line


def test_metadata_says_all_that_a_deployer_needs(result: tuple[Path, dict], data: Digits) -> None:
    for name in ("student.onnx", "student.fp16.onnx", "student.int8.onnx", "student.pixels.onnx"):
        metadata = {prop.key: prop.value for prop in onnx.load(result[0] / name).metadata_props}
        assert metadata["class_names"].split("\n") == list(data.class_names)
        assert [float(value) for value in metadata["mean"].split(",")] == data.mean
        assert [float(value) for value in metadata["std"].split(",")] == data.std
        assert (metadata["image_size"], metadata["color_order"]) == ("16", "RGB")
        assert metadata["run"] == "digits-ka-s0"


def test_calibration_is_from_train_and_can_be_traced(result: tuple[Path, dict], data: Digits) -> None:
    record = result[1]["calibration"]
    assert record["split"] == "train"
    indices = np.array(record["indices"], "<i8")
    assert len(set(record["indices"])) == len(indices) == 200
    assert indices.max() < len(data.train_images)
    assert record["indices_sha256"] == hashlib.sha256(indices.tobytes()).hexdigest()


def test_int8_does_not_depend_on_the_evaluation_images(
    result: tuple[Path, dict], trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    other = dataclasses.replace(
        data, eval_images=data.eval_images[::-1][:200], eval_labels=data.eval_labels[::-1][:200]
    )
    export_student(
        trained,
        out_dir=tmp_path,
        data=other,
        settings=SETTINGS,
        precisions=["int8"],
        provenance={"run": "digits-ka-s0"},
    )
    assert (tmp_path / "student.int8.onnx").read_bytes() == (result[0] / "student.int8.onnx").read_bytes()


def test_what_an_earlier_export_made_of_the_same_is_left_as_it_is_and_what_was_altered_is_made_again(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    lines: list[str] = []

    def export(settings: Export = SETTINGS, weights: str = "w", **wanted: Sequence[str]) -> tuple[dict, dict[str, int]]:
        lines.clear()
        record = export_student(
            trained,
            out_dir=tmp_path,
            data=data,
            settings=settings,
            provenance={"weights_sha256": weights},
            log=lines.append,
            **wanted,
        )
        return record, {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.onnx")}

    first, times = export(precisions=["fp32", "int8"])
    again, now = export(precisions=["fp32", "fp16", "int8"])
    assert {name: now[name] for name in times} == times
    assert [line.split()[-1] for line in lines] == ["unchanged", "MB", "unchanged"]
    assert again["files"]["student.int8.onnx"] == first["files"]["student.int8.onnx"]
    assert again["calibration"] == first["calibration"]

    (tmp_path / "student.int8.onnx").write_bytes(b"altered")
    repaired = export(precisions=["int8"])[0]["files"]["student.int8.onnx"]
    assert repaired["sha256"] == first["files"]["student.int8.onnx"]["sha256"]
    assert "student.int8.onnx" in lines[1]
    assert not lines[1].endswith("unchanged")

    engines = SETTINGS.model_copy(update={"compute_capabilities": ["89"]})
    assert export(engines, precisions=["int8"])[1].keys() == now.keys()
    assert {line.split()[-1] for line in lines} == {"unchanged"}, "only engines depend on it"
    for change in ({"settings": SETTINGS.model_copy(update={"calibration_seed": 1})}, {"weights": "others"}):
        record, _ = export(**change)
        assert not any(line.endswith("unchanged") for line in lines)
        assert set(record["files"]) == {"student.onnx"}, "the other files are of other settings or weights"


@pytest.mark.parametrize(
    ("limits", "words", "kept"),
    [
        ({"max_logit_diff": 1e-12}, ("logits differ", "1e-12 allowed"), set()),
        ({"min_int8_macs": 1.0, "max_int8_top1_drop": 0.0}, (), {"student.onnx", "student.fp16.onnx"}),
    ],
)
def test_a_breach_leaves_nothing_at_the_final_name_not_even_an_earlier_file(
    trained: nn.Module, data: Digits, tmp_path: Path, limits: dict, words: tuple[str, ...], kept: set[str]
) -> None:
    for name in ("student.onnx", "student.int8.onnx"):
        (tmp_path / name).write_bytes(b"of an earlier export")
    if not words:  # a student so bad in INT8 that no limit of 0 can hold
        data = dataclasses.replace(data, train_images=np.zeros_like(data.train_images))
    with pytest.raises(GateError) as caught:
        export_student(
            trained,
            out_dir=tmp_path,
            data=data,
            settings=SETTINGS.model_copy(update=limits),
            precisions=("fp32", "fp16", "int8"),
        )
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


@pytest.mark.skipif(not have_tensorrt(), reason="needs TensorRT for RTX: pip install 'compress-timm[trt-rtx]'")
def test_engines_are_built_from_files_that_passed(trained: nn.Module, data: Digits, tmp_path: Path) -> None:
    phases: set[str] = set()
    record = export_student(
        trained,
        out_dir=tmp_path,
        data=data,
        settings=SETTINGS.model_copy(update={"compute_capabilities": ["86", "89"]}),
        formats=["trt"],
        precisions=("fp32", "fp16", "int8"),
        progress=lambda phase, done, total: phases.add(phase),
    )
    sources = {"student.engine": "student.onnx", "student.fp16.engine": "student.fp16.onnx"}
    sources["student.int8.engine"] = "student.int8.trt.onnx"
    for engine, source in sources.items():
        info = check_engine(tmp_path / engine)
        assert info.onnx_sha256 == hashlib.sha256((tmp_path / source).read_bytes()).hexdigest()
        assert info.compute_capabilities == ("86", "89")
        assert record["files"][engine]["sha256"] == info.engine_sha256
        assert record["files"][source]["tensorrt_lint"] == []
    assert not (tmp_path / "student.int8.onnx").exists(), "that one is for ONNX Runtime"
    drop = record["files"]["student.int8.trt.onnx"]["drop"]
    assert drop["candidate_top1"] > 0.9
    assert "Building engine" in phases
    names = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in names if name.startswith(".")]


EXPORT = """
import sys, resource
from pathlib import Path
import torch
from compress.system.errors import CompressError
from export.pipeline import export_student
from compress.recipe import Export
from tests.helpers.classifiers import digits_split, small_net
if sys.argv[2] == "no tensorrt":
    sys.modules["tensorrt"] = sys.modules["tensorrt_rtx_bindings"] = None
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
torch.manual_seed(0)
try:
    export_student(small_net(), out_dir=Path(sys.argv[1]), data=digits_split(),
                   settings=Export(calibration_images=32, max_int8_top1_drop=0.9), formats=["trt"],
                   precisions=["fp32", "int8"], log=print)
except CompressError as error:
    print(error.code, error)
"""


def export_in_a_process(out: Path, how: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", EXPORT, out, how], capture_output=True, text=True, cwd=ROOT)
    assert result.stdout, result.stderr
    return result.stdout.splitlines()


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
