"""The INT8 files of an export: each is repaired by what hurts in its own graph."""

from pathlib import Path

import pytest
from torch import nn

from export.folder import ExportFolder
from export.gates import Source, Stage
from export.int8 import Quantizer, int8_files
from export.int8.sensitivity import layer_sensitivity
from export.onnx import export_onnx
from export.records import ExportRecord
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits
from tests.helpers.exporting import SETTINGS, export_to


def test_the_harm_of_a_layer_is_measured_on_the_graph_that_it_is_in(
    hostile: nn.Module, data: Digits, tmp_path: Path
) -> None:
    images = len(data.train_images)  # so that harm is measured on the same ones
    update = {
        "max_int8_top1_drop": 0.0,
        "min_int8_macs": 0.1,
        "calibration_images": images,
        "sensitivity_images": images,
    }
    folder = ExportFolder(tmp_path)
    source, settings = Source(hostile, data), SETTINGS.model_copy(update=update)  # type: ignore[arg-type]
    stage = Stage(source, folder, settings, 1, ExportRecord(files={}))
    export_onnx(hostile, folder.onnx(), image_size=16, metadata={})
    int8_files(stage, ("onnx", "trt"))
    assert stage.record.calibration is not None
    tried = data.train_images[stage.record.calibration.indices]
    quantizer = Quantizer(folder.onnx(), tried, MEAN, STD, threads=1)
    ort, trt = (
        layer_sensitivity(quantizer, float_logits(hostile, tried), tried, mean=MEAN, std=STD, target=target, threads=1)
        for target in ("ort", "trt")
    )
    assert stage.record.layer_sensitivity == pytest.approx(ort, rel=1e-3)
    assert stage.record.layer_sensitivity_trt == pytest.approx(trt, rel=1e-3)
    assert ort != pytest.approx(trt, rel=1e-2)


@pytest.mark.parametrize(("speedup", "warned"), [(0.83, True), (1.0, False), (1.4, False)])
def test_an_int8_file_that_is_slower_than_fp32_here_is_warned_of(
    trained: nn.Module,
    data: Digits,
    tmp_path: Path,
    speedup: float,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Stage, "speedup", lambda stage, path: speedup)
    record = export_to(tmp_path, trained, data, formats=("onnx",), precisions=("int8",), threads=1)
    line = "student.int8.onnx runs at 0.83x the speed of FP32 at batch 1 here: INT8 does not pay on this machine"
    assert (line in caplog.text) == ("does not pay" in caplog.text) == warned
    assert record.files["student.int8.onnx"].speedup_over_fp32 == speedup
