"""A whole export of a trained net: what is written, that its numbers are true, and what is not made again."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.metrics import accuracy_score
from torch import nn

from compress.recipe import Export
from export.int8 import Quantizer, has_vnni
from export.records import ExportRecord, FileRecord
from tests.helpers.classifiers import Digits, float_logits, normalised
from tests.helpers.exporting import SETTINGS, export_to


def predictions(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": normalised(images)})[0].argmax(1)


@pytest.fixture(scope="module")
def result(trained: nn.Module, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("run") / "export"
    precisions = ("fp32", "fp16", "int8")
    provenance = {"run": "digits-ka-s0"}
    returned = export_to(out, trained, data, precisions=precisions, preprocess=True, provenance=provenance)
    record = json.loads((out / "export.json").read_text())
    assert record == returned.dump()
    assert ExportRecord.read(out / "export.json") == returned
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
    hostile: nn.Module, data: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"max_int8_top1_drop": 0.0, "min_int8_macs": 0.1})
    with caplog.at_level(logging.INFO, "export"):
        record = export_to(tmp_path, hostile, data, settings, precisions=("int8",)).files["student.int8.onnx"]
    assert record.float_layers == ["3/Conv"]
    indices = json.loads((tmp_path / "export.json").read_text())["calibration"]["indices"]
    quantizer = Quantizer(tmp_path / "student.onnx", data.train_images[indices], data.mean, data.std)
    quantizer.write(tmp_path / "all.onnx", target="ort")
    for drop, file in ((record.drop_all_int8, "all.onnx"), (record.drop, "student.int8.onnx")):
        here = predictions(tmp_path / file, data.eval_images)
        assert drop is not None
        assert drop.candidate_top1 == pytest.approx(accuracy_score(data.eval_labels, here))
    assert record.drop_all_int8 is not None
    assert record.drop_all_int8.low > 0.0
    line = next(line for line in caplog.messages if "in float to lose" in line)
    assert f"not {100 * record.drop_all_int8.drop:.2f}: 3/Conv" in line


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
    export_to(tmp_path, trained, other, precisions=["int8"], provenance={"run": "digits-ka-s0"})
    assert (tmp_path / "student.int8.onnx").read_bytes() == (result[0] / "student.int8.onnx").read_bytes()


def test_what_an_earlier_export_made_of_the_same_is_left_as_it_is_and_what_was_altered_is_made_again(
    trained: nn.Module, data: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "export")

    def export(
        settings: Export = SETTINGS, weights: str = "w", **wanted: Any
    ) -> tuple[ExportRecord, dict[str, int], list[str]]:
        caplog.clear()
        record = export_to(tmp_path, trained, data, settings, provenance={"weights_sha256": weights}, **wanted)
        times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.onnx")}
        return record, times, [each.getMessage() for each in caplog.records if each.levelno == logging.INFO]

    first, times, _ = export(precisions=["fp32", "int8"])
    again, now, lines = export(precisions=["fp32", "fp16", "int8"])
    assert {name: now[name] for name in times} == times
    assert [line.split()[-1] for line in lines] == ["unchanged", "MB", "unchanged"]
    assert again.files["student.int8.onnx"] == first.files["student.int8.onnx"]
    assert again.calibration == first.calibration

    (tmp_path / "student.int8.onnx").write_bytes(b"altered")
    repaired, _, lines = export(precisions=["int8"])
    assert repaired.files["student.int8.onnx"].sha256 == first.files["student.int8.onnx"].sha256
    assert "student.int8.onnx" in lines[1]
    assert not lines[1].endswith("unchanged")

    engines = SETTINGS.model_copy(update={"compute_capabilities": ["89"]})
    _, after, lines = export(engines, precisions=["int8"])
    assert after.keys() == now.keys()
    assert {line.split()[-1] for line in lines} == {"unchanged"}, "only engines depend on it"
    for change in ({"settings": SETTINGS.model_copy(update={"max_logit_diff": 2e-4})}, {"weights": "others"}):
        record, _, lines = export(**change)
        assert not any(line.endswith("unchanged") for line in lines)
        assert set(record.files) == {"student.onnx"}, "the other files are of other settings or weights"


def test_int8_of_a_cpu_that_adds_in_other_bits_is_made_again(
    trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight bits saturate on a CPU without VNNI, which gets seven."""
    provenance, precisions = {"weights_sha256": "w"}, ["fp32", "int8"]
    here = has_vnni()
    first = export_to(tmp_path, trained, data, SETTINGS, provenance=provenance, precisions=precisions)
    kept = (tmp_path / "student.onnx").stat().st_mtime_ns
    for place in ("export.earlier", "export.int8.quantize", "export.int8.files"):
        monkeypatch.setattr(f"{place}.has_vnni", lambda: not here)
    again = export_to(tmp_path, trained, data, SETTINGS, provenance=provenance, precisions=precisions)
    assert [record.calibration.reduced_range for record in (first, again)] == [not here, here]  # type: ignore[union-attr]
    assert again.files["student.int8.onnx"].sha256 != first.files["student.int8.onnx"].sha256
    assert (tmp_path / "student.onnx").stat().st_mtime_ns == kept


def test_a_setting_of_one_precision_leaves_files_of_the_others_and_their_record(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    def export(**settings: Any) -> dict[str, FileRecord]:
        changed, provenance = SETTINGS.model_copy(update=settings), {"weights_sha256": "w"}
        return export_to(tmp_path, trained, data, changed, provenance=provenance, **wanted).files

    wanted: dict[str, Any] = {"precisions": ["fp32", "fp16", "int8"], "preprocess": True}
    first = export()
    wanted = {"precisions": ["fp16"]}
    looser = export(max_fp16_top1_drop=0.1)
    assert looser.keys() == first.keys()
    assert {name: looser[name] for name in first if "fp16" not in name} == {
        name: entry for name, entry in first.items() if "fp16" not in name
    }
    wanted = {"precisions": ["fp32"]}
    assert export(max_fp16_top1_drop=0.1) == looser
    pixels = {"student.onnx", "student.pixels.onnx"}
    assert set(export(max_fp16_top1_drop=0.1, calibration_seed=1)) == pixels, "both others are calibrated"
    record = json.loads((tmp_path / "export.json").read_text())
    assert "calibration" not in record


def test_a_record_opens_that_has_less_or_more_than_is_known_now(result: tuple[Path, dict], tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    path.write_text(json.dumps({"files": {"student.onnx": {"sha256": "0" * 64, "bytes": 3}}}))
    assert ExportRecord.read(path).files["student.onnx"].bytes == 3
    newer = result[1] | {"openvino": {"version": "2030.1"}}
    path.write_text(json.dumps(newer))
    record = ExportRecord.read(path)
    assert record["openvino"] == {"version": "2030.1"}
    record.write(path)
    assert json.loads(path.read_text()) == newer
