"""Layers go back to float where, and only where, INT8 hurts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from torch import nn

from compress.system.errors import GateError
from export.int8.macs import int8_mac_fraction
from export.int8.quantize import Quantizer, Target, fusion_coverage, has_vnni
from export.int8.sensitivity import layer_sensitivity, quantize_until
from export.onnx import export_onnx
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits, normalised, signal_to_noise_db

HOSTILE = "3/Conv"


@pytest.fixture(scope="module")
def hostile_quantizer(
    hostile: nn.Module, data: Digits, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Quantizer, np.ndarray]:
    path = tmp_path_factory.mktemp("hostile") / "m.onnx"
    export_onnx(hostile, path, image_size=16, metadata={})
    return Quantizer(path, data.train_images[:128], MEAN, STD, method="minmax"), float_logits(
        hostile, data.train_images[:128]
    )


def gate(limit_db: float, expected: np.ndarray, images: np.ndarray) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        measured = signal_to_noise_db(expected, session.run(["logits"], {"input": normalised(images)})[0])
        if measured < limit_db:
            raise GateError(f"{measured:.1f} dB, {limit_db} needed", "")

    return check


def test_the_harmed_layer_is_found(hostile_quantizer: tuple[Quantizer, np.ndarray], data: Digits) -> None:
    quantizer, reference = hostile_quantizer
    harm = layer_sensitivity(quantizer, reference, data.train_images[:128], mean=MEAN, std=STD)
    worst, second = list(harm)[:2]
    assert worst == HOSTILE
    assert harm[worst] > 10 * harm[second] > 0
    assert set(harm) == set(quantizer.layers)


@pytest.mark.parametrize("target", ["ort", "trt"])
def test_only_the_harmed_layer_returns_to_float(
    hostile_quantizer: tuple[Quantizer, np.ndarray], data: Digits, tmp_path: Path, target: Target
) -> None:
    quantizer, reference = hostile_quantizer
    path, images = tmp_path / "int8.onnx", data.train_images[:128]

    def sensitivity() -> dict[str, float]:
        return layer_sensitivity(quantizer, reference, images, mean=MEAN, std=STD)

    quantizer.write(path, target=target)
    check = gate(12, reference, images)
    with pytest.raises(GateError):
        check(path)
    floats = quantize_until(quantizer, path, check, target=target, sensitivity=sensitivity, min_int8_macs=0.3)
    assert floats == [HOSTILE]
    check(path)
    assert 0.3 <= int8_mac_fraction(path) < 1
    if target == "ort" and has_vnni():
        assert fusion_coverage(path) == (3, 1)


def test_a_good_model_is_left_alone_and_its_layers_are_not_measured(
    trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path
) -> None:
    images = data.train_images[:128]
    quantizer = Quantizer(trained_onnx, images, MEAN, STD)

    def never() -> dict[str, float]:
        raise AssertionError("costs a pass for each layer")

    floats = quantize_until(
        quantizer,
        tmp_path / "int8.onnx",
        gate(12, float_logits(trained, images), images),
        target="ort",
        sensitivity=never,
        min_int8_macs=0.9,
    )
    assert floats == []
    assert int8_mac_fraction(tmp_path / "int8.onnx") == 1.0


def test_layers_that_would_cost_too_much_int8_are_passed_over_and_nothing_is_left(
    hostile_quantizer: tuple[Quantizer, np.ndarray], data: Digits, tmp_path: Path
) -> None:
    quantizer, reference = hostile_quantizer
    path, images = tmp_path / "int8.onnx", data.train_images[:128]
    with pytest.raises(GateError) as caught:
        quantize_until(
            quantizer,
            path,
            gate(12, reference, images),
            target="ort",
            sensitivity=lambda: layer_sensitivity(quantizer, reference, images, mean=MEAN, std=STD),
            min_int8_macs=0.95,
        )
    assert "12 needed" in str(caught.value)
    assert "95.0% required" in str(caught.value)
    assert "train.quantize=int8" in str(caught.value)
    assert not path.exists()
