"""INT8 files: their graphs against the rules of each runtime, their ranges against torch, their logits against FP32."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper
from torch import nn

from compress.system.errors import UsageError
from export.int8.calibrate import activation_ranges, entropy_threshold
from export.int8.macs import counted_ops, int8_mac_fraction, layer_macs
from export.int8.quantize import ORT_OPS, Quantizer, fusion_coverage, has_vnni
from tests.helpers.classifiers import (
    ALL,
    MEAN,
    SIZE,
    STD,
    Digits,
    Exported,
    float_logits,
    normalised,
    signal_to_noise_db,
    torch_macs,
)

# In decibels. Random weights amplify the rounding of every layer; deep plain nets leave nothing of the signal. The
# trained net below is the stricter test.
FLOORS = {
    "resnet18": 10 if has_vnni() else 9,  # weights of 7 bits err more
    "resnet18_smallstem": 10,
    "resnet34": 4,
    "convnext_atto": 20,
    "vit_tiny_patch16_224": 14,
}


def logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"input": normalised(images)})[0]


@pytest.fixture(scope="module")
def quantizer(trained_onnx: Path, data: Digits) -> Quantizer:
    return Quantizer(trained_onnx, data.train_images[:256], MEAN, STD)


@pytest.mark.parametrize("name", ALL)
def test_both_forms_obey_their_runtime_and_stay_close(
    exported: Callable[[str], Exported], tmp_path: Path, name: str
) -> None:
    case = exported(name)
    quantizer = Quantizer(case.path, case.images[:64], MEAN, STD)
    for target in ("ort", "trt"):
        path = tmp_path / f"{target}.onnx"
        quantizer.write(path, target=target)
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [opset.domain for opset in model.opset_import] == [""]
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        made_by = {output: node for node in model.graph.node for output in node.output}
        convs = [node for node in model.graph.node if node.op_type == "Conv"]
        for conv in convs:
            activation, weight = (made_by[name] for name in conv.input[:2])
            assert activation.op_type == weight.op_type == "DequantizeLinear"
            assert constants[weight.input[1]].size > 1, "weights have a scale for each channel"
            assert constants[weight.input[2]].dtype == np.int8
            if target == "ort":
                assert constants[activation.input[2]].dtype == np.uint8
                assert constants[weight.input[0]].dtype == np.int8
            else:
                assert made_by[weight.input[0]].op_type == "QuantizeLinear"
                assert constants[made_by[weight.input[0]].input[0]].dtype == np.float16
        if target == "trt":
            pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
            assert pairs
            for node in pairs:
                assert constants[node.input[2]].dtype == np.int8
                assert not constants[node.input[2]].any()
            assert TensorProto.INT32 not in {tensor.data_type for tensor in model.graph.initializer}
        actual = logits(path, case.images[300:364])
        assert np.isfinite(actual).all()
        assert len(actual) == 64
        if name in FLOORS:
            assert signal_to_noise_db(float_logits(case.model, case.images[300:364]), actual) > FLOORS[name]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("target", ["ort", "trt"])
def test_a_trained_net_keeps_its_accuracy(
    trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path, method: str, target: str
) -> None:
    path = tmp_path / "int8.onnx"
    calibrated = Quantizer(trained_onnx, data.train_images[:256], MEAN, STD, method=method)  # type: ignore
    calibrated.write(path, target=target)
    expected, actual = float_logits(trained, data.eval_images), logits(path, data.eval_images)
    top1 = (expected.argmax(1) == data.eval_labels).mean()
    assert top1 > 0.9
    assert (actual.argmax(1) == data.eval_labels).mean() > top1 - 0.015
    assert signal_to_noise_db(expected, actual) > 18


def conv_inputs(model: nn.Module, images: np.ndarray) -> list[np.ndarray]:
    """What each convolution is given, by torch."""
    seen: list[np.ndarray] = []
    convs = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [conv.register_forward_pre_hook(lambda _, args: seen.append(args[0].numpy())) for conv in convs]
    float_logits(model, images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize(("target", "scale"), [("trt", 7.0 / 127), ("ort", 7.5 / 255)])
def test_a_range_that_training_settled_is_the_scale_of_that_input_alone(
    trained_onnx: Path, data: Digits, tmp_path: Path, target: Literal["trt", "ort"], scale: float
) -> None:
    """From -0.5 to 7: TensorRT's integers are symmetric, ONNX Runtime's are not."""
    images, settled = data.train_images[:64], {"3": [-0.5, 7.0]}
    scales = []
    for number, ranges in enumerate((None, settled)):
        path = tmp_path / f"{number}.onnx"
        Quantizer(trained_onnx, images, MEAN, STD, input_ranges=ranges).write(path, target=target)
        graph = onnx.load(path).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        maker = {output: node for node in graph.node for output in node.output}
        convs = [node for node in graph.node if node.op_type == "Conv"]
        scales.append({node.name: float(constants[maker[node.input[0]].input[1]]) for node in convs})
    calibrated, changed = scales
    assert changed["3/Conv"] == pytest.approx(scale, rel=0.01)
    assert calibrated["3/Conv"] != pytest.approx(scale, rel=0.01)
    del calibrated["3/Conv"], changed["3/Conv"]
    assert calibrated == changed
    assert len(calibrated) == 3


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_ranges_are_those_of_the_activations_in_torch(
    trained: nn.Module, trained_onnx: Path, data: Digits, method: str
) -> None:
    images = data.train_images[:100]  # not a multiple of the calibration batch
    ranges = activation_ranges(trained_onnx, images, MEAN, STD, method=method, op_types=ORT_OPS)  # type: ignore
    convs = [node for node in onnx.load(trained_onnx).graph.node if node.op_type == "Conv"]
    for node, values in zip(convs, conv_inputs(trained, images), strict=True):
        low, high = (float(value) for value in ranges[node.input[0]].range_value)
        if method == "minmax":
            expected = values.min(), values.max()
            tolerance = 1e-4 * float(values.max() - values.min())
        else:
            expected = np.quantile(values, 0.00005), np.quantile(values, 0.99995)
            tolerance = 3 * 2 * float(np.abs(values).max()) / 2048  # three bins
        assert low == pytest.approx(expected[0], abs=tolerance)
        assert high == pytest.approx(expected[1], abs=tolerance)


@pytest.mark.parametrize("method", ["minmax", "percentile"])  # entropy collects like percentile
def test_calibration_memory_does_not_grow_with_the_images(trained_onnx: Path, data: Digits, method: str) -> None:
    peaks = []
    for count in (64, 1024):
        tracemalloc.start()
        activation_ranges(
            trained_onnx,
            data.train_images[:count],
            MEAN,
            STD,
            method=method,
            op_types=ORT_OPS,  # type: ignore
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.25 * peaks[0]


def slow_entropy_threshold(counts: np.ndarray, threshold: float, levels: int) -> float:
    """The same search, one bin at a time."""
    half = len(counts) // 2
    bins = [float(counts[half + i] + counts[half - 1 - i]) for i in range(half)]
    bins[0] = bins[1]
    best = (float("inf"), half)
    for stop in range(levels, half + 1):
        if sum(bins[:stop]) < 0.99 * sum(bins):
            continue
        p = bins[:stop]
        p[-1] += sum(bins[stop:])
        q = [0.0] * stop
        for level in range(levels):
            members = [i for i in range(stop) if i * levels // stop == level and bins[i] > 0]
            for i in members:
                q[i] = sum(bins[j] for j in members) / len(members)
        q = [1e-4 * sum(p) / stop if p[i] > 0 and q[i] == 0 else q[i] for i in range(stop)]
        total_p, total_q = sum(p), sum(q)
        divergence = sum(
            a / total_p * np.log((a / total_p) / (b / total_q)) for a, b in zip(p, q, strict=True) if a > 0
        )
        best = min(best, (float(divergence), stop))
    return best[1] * threshold / half


@pytest.mark.parametrize("shape", ["normal", "relu with outliers", "narrow far from zero"])
def test_entropy_threshold_equals_the_slow_search(shape: str) -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=20_000)
    if shape == "relu with outliers":
        values = np.concatenate([np.maximum(values, 0), [8.0] * 5])
    elif shape == "narrow far from zero":
        values = 5 + 0.1 * values
    threshold = float(np.abs(values).max())
    counts = np.histogram(values, 256, range=(-threshold, threshold))[0]
    fast = entropy_threshold(counts, threshold, levels=32)
    assert fast == pytest.approx(slow_entropy_threshold(counts, threshold, 32))
    assert (np.abs(values) <= fast * 1.0001).mean() >= 0.98


def test_int8_share_is_weighted_by_multiply_adds(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    case, path = exported("resnet18"), tmp_path / "int8.onnx"
    assert int8_mac_fraction(case.path) == 0
    quantizer = Quantizer(case.path, case.images[:32], MEAN, STD)
    macs = {name: n for name, n in torch_macs(case.model, SIZE).items() if name != "fc"}
    for target in ("ort", "trt"):
        excluded = ["conv1/Conv", "layer2.0.conv2/Conv"]
        quantizer.write(path, target=target, exclude=excluded)
        float_share = (macs["conv1"] + macs["layer2.0.conv2"]) / sum(macs.values())
        assert int8_mac_fraction(path) == pytest.approx(1 - float_share)
    quantizer.write(path, target="ort")
    assert int8_mac_fraction(path) == 1.0
    assert {name.removesuffix("/Conv"): count for name, (count, _) in layer_macs(path).items()} == macs


def test_transformers_count_their_linear_layers(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    case, path = exported("vit_tiny_patch16_224"), tmp_path / "int8.onnx"
    Quantizer(case.path, case.images[:32], MEAN, STD).write(path, target="ort")
    counted = counted_ops(path)
    assert set(counted) == {"Conv", "Gemm", "MatMul"}
    assert sum(n for n, _ in layer_macs(path, counted).values()) == sum(torch_macs(case.model, SIZE).values())
    assert counted_ops(exported("resnet18").path) == ("Conv",)


@pytest.mark.skipif(not has_vnni(), reason="ONNX Runtime fuses U8S8 convolutions on CPUs with 8-bit dot products")
def test_fusion_coverage_is_full_for_onnxruntime_and_sees_excluded_layers(
    quantizer: Quantizer, tmp_path: Path, trained_onnx: Path
) -> None:
    path = tmp_path / "int8.onnx"
    quantizer.write(path, target="ort")
    assert fusion_coverage(path) == (4, 0)
    quantizer.write(path, target="ort", exclude=["3/Conv"])
    assert fusion_coverage(path) == (3, 1)
    assert fusion_coverage(trained_onnx) == (0, 4)


def test_excluding_every_layer_gives_the_float_model_back(exported: Callable[[str], Exported], tmp_path: Path) -> None:
    """What keeps a layer float must itself change nothing, also where no ReLU follows."""
    case, path = exported("resnet18"), tmp_path / "float.onnx"
    quantizer = Quantizer(case.path, case.images[:8], MEAN, STD)
    quantizer.write(path, target="ort", exclude=quantizer.layers)
    expected = float_logits(case.model, case.images[:16])
    np.testing.assert_allclose(logits(path, case.images[:16]), expected, atol=1e-3)


def test_same_input_gives_the_same_bytes(
    trained_onnx: Path, data: Digits, quantizer: Quantizer, tmp_path: Path
) -> None:
    again = Quantizer(trained_onnx, data.train_images[:256], MEAN, STD)
    quantizer.write(tmp_path / "a.onnx", target="trt")
    again.write(tmp_path / "b.onnx", target="trt")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_unknown_layers_and_no_images_are_usage_errors(
    quantizer: Quantizer, trained_onnx: Path, data: Digits, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="'nowhere'"):
        quantizer.write(tmp_path / "a.onnx", target="ort", exclude=["nowhere"])
    with pytest.raises(UsageError, match="calibration"):
        Quantizer(trained_onnx, data.train_images[:0], MEAN, STD)
