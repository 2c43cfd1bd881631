"""The IRs of an export pass gates with OpenVINO's own answers, and are recorded by their hashes."""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper
from torch import nn

from compress.system.errors import CompressError, GateError, MachineError
from export.folder import ExportFolder
from export.gates import require_decided
from export.openvino import core, files, own_execution
from export.records import ExportRecord
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits, normalised
from tests.helpers.exporting import SETTINGS, export_to

ALL_PRECISIONS = ("fp32", "fp16", "int8")
PROVENANCE = {"weights_sha256": "of the weights"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("irs")


@pytest.fixture(scope="module")
def record(folder: Path, trained: nn.Module, data: Digits) -> ExportRecord:
    wanted = {"formats": ("openvino",), "precisions": ALL_PRECISIONS, "threads": 1}
    return export_to(folder, trained, data, provenance=PROVENANCE, **wanted)


def test_an_export_for_another_runtime_keeps_the_irs_and_says_of_which_openvino_they_are(
    record: ExportRecord, folder: Path, trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    again = export_to(copy, trained, data, provenance=PROVENANCE, precisions=("int8",), threads=1)
    assert again.files == record.files
    assert again.versions == record.versions
    assert ExportRecord.read(copy / "export.json") == again


def answers(path: Path, images: np.ndarray) -> np.ndarray:
    """By OpenVINO's own API, without this package."""
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    return core().compile_model(str(path), "CPU", hint)({"input": normalised(images)})["logits"]


@pytest.mark.parametrize(("name", "least_agreement"), [("student", 1.0), ("student.fp16", 1.0), ("student.int8", 0.97)])
def test_each_ir_answers_as_torch_does(
    name: str, least_agreement: float, record: ExportRecord, folder: Path, trained: nn.Module, data: Digits
) -> None:
    found = answers(folder / "openvino" / f"{name}.xml", data.eval_images)
    expected = float_logits(trained, data.eval_images)
    agreement = float((found.argmax(1) == expected.argmax(1)).mean())
    assert agreement >= least_agreement
    measured = record.files[f"openvino/{name}.xml"]
    assert measured.agreement == pytest.approx(agreement, abs=0.003)
    if name == "student":
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_both_files_of_an_ir_are_recorded_by_their_hashes(record: ExportRecord, folder: Path) -> None:
    for name in ("student", "student.fp16", "student.int8"):
        for ending in ("xml", "bin"):
            path = folder / "openvino" / f"{name}.{ending}"
            assert record.files[f"openvino/{name}.{ending}"].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.versions["openvino"].startswith(openvino.__version__.split("-")[0])
    left = {path.name for path in (folder / "openvino").iterdir()}
    assert left == {f"student{precision}.{end}" for precision in ("", ".fp16", ".int8") for end in ("xml", "bin")}


def test_fp16_halves_the_weights_and_int8_quarters_them(record: ExportRecord) -> None:
    sizes = [record.files[f"openvino/student{name}.bin"].bytes for name in ("", ".fp16", ".int8")]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    assert sizes[2] < 0.4 * sizes[0]


def test_the_int8_ir_computes_its_convolutions_in_8_bits(record: ExportRecord, folder: Path) -> None:
    """As OpenVINO's own plan of execution says it."""
    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(str(folder / "openvino" / "student.int8.xml"), "CPU", hint)
    plan = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [
        str(info["runtimePrecision"].astype(str)) for info in plan if info["layerType"].astype(str) == "Convolution"
    ]
    assert len(kinds) == 4
    assert set(kinds) <= {"i8", "u8"}
    assert record.files["openvino/student.int8.xml"].made_of in ("student.int8.onnx", "student.int8.trt.onnx")


def test_the_metadata_goes_with_the_ir(record: ExportRecord, folder: Path, data: Digits) -> None:
    model = core().read_model(str(folder / "openvino" / "student.int8.xml"))
    assert model.get_rt_info(["compress", "class_names"]).astype(str).split("\n") == data.class_names
    assert [float(value) for value in model.get_rt_info(["compress", "mean"]).astype(str).split(",")] == MEAN
    assert [float(value) for value in model.get_rt_info(["compress", "std"]).astype(str).split(",")] == STD


@pytest.mark.skipif(own_execution() == "f32", reason="this CPU computes in f32 alone")
def test_what_openvino_would_compute_in_by_itself_is_measured(
    record: ExportRecord, trained: nn.Module, data: Digits
) -> None:
    measured = (record.files["openvino/student.xml"].executions or {})[own_execution()]
    right = float((float_logits(trained, data.eval_images).argmax(1) == data.eval_labels).mean())
    assert measured.drop.reference_top1 == pytest.approx(right)
    assert measured.agreement > 0.97


def twice(source: Path, folder: Path) -> Path:
    """The graph with one weight doubled, which a converter that is at fault could do."""
    model = onnx.load(source)
    weight = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), weight.name))
    onnx.save(model, folder / "twice.onnx")
    return folder / "twice.onnx"


def test_an_ir_that_misses_a_gate_is_not_left(
    trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files._write
    export_to(tmp_path, trained, data, formats=("openvino",), threads=1)
    assert (tmp_path / "openvino" / "student.xml").exists()
    monkeypatch.setattr(
        files, "_write", lambda source, target, *, half: write(twice(source, tmp_path), target, half=half)
    )
    with pytest.raises(GateError, match="logits differ by"):
        export_to(tmp_path, trained, data, formats=("openvino",), threads=1)
    assert not list((tmp_path / "openvino").iterdir())


def test_a_precision_of_openvino_that_is_undecided_is_named_and_counts(
    trained: nn.Module,
    data: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of bf16 only where it was asked for: the FP32 file of the same IR passes."""

    class Rounded(files.OpenVinoRuntime):
        """As a CPU with bf16 answers, on any."""

        def __init__(self, path: Path, *settings: Any, execution: str = "f32", **others: Any) -> None:
            super().__init__(path, *settings, **others)
            self.rounded = execution == "bf16"

        def __call__(self, images: np.ndarray) -> np.ndarray:
            logits = super().__call__(images)
            if self.rounded:
                logits[0] = np.roll(logits[0], 1)
            return logits

    monkeypatch.setattr(files, "OpenVinoRuntime", Rounded)
    monkeypatch.setattr(files, "own_execution", lambda: "bf16")
    asked = {"formats": ("openvino",), "threads": 1}
    with caplog.at_level(logging.WARNING):
        plain = export_to(tmp_path / "plain", trained, data, **asked, precisions=("fp32",))
    assert plain.files["openvino/student.xml"].undecided == ""
    assert "UNDECIDED" not in caplog.text
    require_decided(plain)
    with caplog.at_level(logging.WARNING):
        record = export_to(tmp_path / "bf16", trained, data, **asked, precisions=("fp32", "bf16"))
    entry = ExportRecord.read(tmp_path / "bf16" / "export.json").files["openvino/student.xml"]
    assert entry == record.files["openvino/student.xml"]
    assert entry.outcome == "PASS"
    assert entry.undecided.startswith("UNDECIDED in bf16: it loses ")
    assert "openvino/student.xml is UNDECIDED in bf16: it loses" in caplog.text
    assert "images would decide" in caplog.text
    with pytest.raises(GateError, match=r"openvino/student\.xml is UNDECIDED in bf16"):
        require_decided(record)


def crash(*args: object, **named: object) -> None:
    raise onnx.shape_inference.InferenceError("no shape of this")


def test_every_precision_and_format_stands_alone(
    trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU without bf16, with an FP16 that crashes: what can be made is made, and each failure has its reason."""
    monkeypatch.setattr(files, "own_execution", lambda: "f32")
    wanted = {"formats": ("onnx", "openvino", "trt"), "precisions": ("fp32", "fp16", "bf16"), "threads": 1}
    settings = SETTINGS.model_copy(update={"compute_capabilities": ["89"]})
    with monkeypatch.context() as broken:
        broken.setattr("export.pipeline.to_fp16", crash)
        with pytest.raises(CompressError, match=r"converting student\.onnx to fp16 failed"):
            export_to(tmp_path, trained, data, settings, **wanted)
    record = ExportFolder(tmp_path).record()
    assert {"student.onnx", "openvino/student.xml", "openvino/student.fp16.xml"} <= record.files.keys()
    assert set(record.failures) - {"student.engine"} == {  # that one where TensorRT is not installed
        "student.fp16.onnx",
        "openvino/student.xml:bf16",
        "student.fp16.engine",
    }
    assert ("student.engine" in record.files) != ("student.engine" in record.failures)
    assert "does not compute in bf16 on this CPU" in record.failures["openvino/student.xml:bf16"]
    assert "student.fp16.onnx, which was not made" in record.failures["student.fp16.engine"]
    with pytest.raises(MachineError):
        export_to(tmp_path, trained, data, settings, **wanted)
    assert "student.fp16.onnx" not in ExportFolder(tmp_path).record().failures


def test_what_fails_in_bf16_leaves_the_file_and_its_reason(
    trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = files._runtime

    def negated(*arguments: Any) -> Any:
        """The FP32 file, which answers the wrong class in bf16."""
        run = runtime(arguments[0], arguments[1])
        return (lambda images: -run(images)) if arguments[2:] == ("bf16",) else run

    monkeypatch.setattr(files, "own_execution", lambda: "bf16")
    monkeypatch.setattr(files, "_runtime", negated)
    with pytest.raises(GateError, match="bf16 loses"):
        export_to(tmp_path, trained, data, formats=("openvino",), precisions=("fp32", "bf16"), threads=1)
    record = ExportFolder(tmp_path).record()
    assert "openvino/student.xml" in record.files
    assert "bf16 loses" in record.failures["openvino/student.xml:bf16"]
