"""INT8 for TensorRT: what is quantised, by the network that TensorRT's parser makes of the file, and what it costs."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import placement
import pytest
import torch
from onnx import TensorProto
from torch import nn

from export.int8 import Quantizer
from export.int8.placement import place
from export.onnx import export_onnx, to_fp16
from export.runtimes import OrtRuntime
from export.tensorrt import tensorrt
from export.tensorrt.lint import lint_for_tensorrt
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits, residual_net, signal_to_noise_db, trained_net


@pytest.fixture(scope="module")
def residual(data: Digits) -> nn.Module:
    return trained_net(data, residual_net)


@pytest.fixture(scope="module")
def source(residual: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("residual") / "student.onnx"
    export_onnx(residual, path, image_size=16, metadata={})
    return path


@pytest.fixture(scope="module")
def quantizer(source: Path, data: Digits) -> Quantizer:
    return Quantizer(source, data.train_images[:128], MEAN, STD)


@pytest.fixture(scope="module")
def int8(quantizer: Quantizer, source: Path) -> Path:
    path = source.with_name("student.int8.trt.onnx")
    quantizer.write(path, target="trt")
    return path


def network(path: Path) -> tuple[list[Any], dict[str, Any], Any]:
    """The layers of TensorRT's network, and which makes a tensor. The last keeps them alive."""
    trt = tensorrt()
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    parsed = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(parsed, log)
    assert parser.parse(path.read_bytes())
    layers = [parsed.get_layer(index) for index in range(parsed.num_layers)]
    makers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    return layers, makers, (builder, parsed, parser)


def test_every_sum_takes_integers_from_the_shortcut_and_the_convolution_itself(builder: None, int8: Path) -> None:
    trt = tensorrt()
    layers, makers, _alive = network(int8)
    sums = [n for n in layers if n.type == trt.LayerType.ELEMENTWISE and "Add" in n.name and "conv" not in n.name]
    assert len(sums) == 3
    for layer in sums:
        kinds = {makers[layer.get_input(i).name].type for i in range(2)}
        assert kinds == {trt.LayerType.CONVOLUTION, trt.LayerType.DEQUANTIZE}
    pools = [n for n in layers if n.type == trt.LayerType.POOLING]
    assert [makers[pool.get_input(0).name].type for pool in pools] == [trt.LayerType.DEQUANTIZE]


def test_kernels_that_are_built_take_integers_and_add_an_integer_shortcut(builder: None, int8: Path) -> None:
    """By the log of the builder of TensorRT for RTX. It dequantises a shortcut that is convolved where it adds it."""
    if not hasattr(tensorrt(), "ComputeCapability"):
        pytest.skip("needs TensorRT for RTX")
    kernels = placement.built(int8)
    read = Counter((kernel.kind == "correlation", *sorted(kernel.reads)) for kernel in kernels)
    assert (read[True, "Int8"], read[True, "Half"]) == (9, 1), "convolutions"
    assert (read[False, "Float", "Int8"], read[False, "Float", "Float"]) == (2, 1), "sums"
    assert [kernel.reads + kernel.writes for kernel in kernels if kernel.kind == "maxpool"] == [("Int8", "Int8")]


def test_what_is_not_int8_is_fp16_but_for_input_and_logits(builder: None, int8: Path) -> None:
    trt = tensorrt()
    layers, makers, _alive = network(int8)
    floats = [n for n in layers if n.get_output(0).dtype == trt.float32 and n.type != trt.LayerType.CONSTANT]
    assert [layer.type for layer in floats] == [trt.LayerType.CAST]
    convolutions = [n for n in layers if n.type == trt.LayerType.CONVOLUTION]
    kinds = Counter(makers[layer.get_input(0).name].type == trt.LayerType.DEQUANTIZE for layer in convolutions)
    assert kinds == {True: 9, False: 1}, "one has too few channels"
    products = [n for n in layers if n.type == trt.LayerType.MATRIX_MULTIPLY]
    assert trt.LayerType.DEQUANTIZE not in {makers[layer.get_input(0).name].type for layer in products}
    assert lint_for_tensorrt(int8) == []


def test_it_loses_no_more_than_a_point(residual: nn.Module, data: Digits, int8: Path) -> None:
    expected = float_logits(residual, data.eval_images)
    actual = OrtRuntime(int8, MEAN, STD, literal=True)(data.eval_images)
    top1, still = ((logits.argmax(1) == data.eval_labels).mean() for logits in (expected, actual))
    assert top1 > 0.9
    assert still > top1 - 0.01
    assert signal_to_noise_db(expected, actual) > 20


# nvidia-modelopt 0.47, graph_utils.py: whether find_nodes_from_convs_to_exclude names the second convolution.
@pytest.mark.parametrize(
    ("conv", "stays"),
    [
        (nn.Conv2d(16, 16, 3), False),
        (nn.Conv2d(16, 8, 3), False),
        (nn.Conv2d(8, 8, 3), True),
        (nn.Conv2d(32, 12, 1), False),
        (nn.Conv2d(12, 12, 1), True),
        (nn.Conv2d(12, 20, 1), True),
        (nn.Conv2d(16, 8, (1, 3)), True),
        (nn.Conv2d(16, 16, 3, groups=16), False),
        (nn.Conv2d(16, 16, 1, groups=16), True),
        (nn.Conv2d(12, 12, 3, groups=12), True),
    ],
)
def test_layers_of_few_channels_stay_in_float_by_modelopts_rule(conv: nn.Conv2d, stays: bool, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, conv.in_channels, 3), conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export_onnx(model, tmp_path / "a.onnx", image_size=8, metadata={})
    assert ("1/Conv" in place(onnx.load(tmp_path / "a.onnx")).left) == stays


def test_a_sum_that_fp16_cannot_hold_stays_in_fp32_with_its_integers(
    residual: nn.Module, data: Digits, builder: None, tmp_path: Path
) -> None:
    """The last sum is a hundred thousand times as large, and what follows makes up for it."""
    loud = copy.deepcopy(residual)
    with torch.no_grad():
        for norm in (loud[5].second[1], loud[5].shortcut[1]):  # type: ignore[index, union-attr]
            norm.weight *= 1e5
            norm.bias *= 1e5
        loud[6][0].weight /= 1e5  # type: ignore[index, operator]
    export_onnx(loud, tmp_path / "loud.onnx", image_size=16, metadata={})
    path = tmp_path / "int8.onnx"
    Quantizer(tmp_path / "loud.onnx", data.train_images[:128], MEAN, STD).write(path, target="trt")
    expected = float_logits(loud, data.eval_images)
    assert signal_to_noise_db(expected, OrtRuntime(path, MEAN, STD, literal=True)(data.eval_images)) > 20
    trt = tensorrt()
    layers, makers, _alive = network(path)
    wide = [n for n in layers if n.type == trt.LayerType.CONVOLUTION and n.get_output(0).dtype == trt.float32]
    assert len(wide) == 3, "the two that are summed, and the one that takes the sum"
    taken = [makers[n.get_input(0).name].type for n in wide]
    assert taken.count(trt.LayerType.DEQUANTIZE) >= 2


def test_read_literally_a_half_overflows_as_it_does_on_a_gpu(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        model[0].weight.fill_(3e4)
        model[1].weight.fill_(1e-4)
    export_onnx(model, tmp_path / "a.onnx", image_size=4, metadata={})
    to_fp16(tmp_path / "a.onnx", tmp_path / "fp16.onnx")
    images = np.full((2, 4, 4, 3), 255, np.uint8)
    assert np.isfinite(OrtRuntime(tmp_path / "fp16.onnx", MEAN, STD)(images)).all()
    assert not np.isfinite(OrtRuntime(tmp_path / "fp16.onnx", MEAN, STD, literal=True)(images)).any()


def test_a_layer_that_goes_back_to_float_takes_its_sum_along(quantizer: Quantizer, tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    quantizer.write(path, target="trt", exclude=["4.second.0/Conv"])
    graph = onnx.load(path).graph
    made_by = {output: node for node in graph.node for output in node.output}
    sums = [[made_by[name].op_type for name in node.input] for node in graph.node if node.op_type == "Add"]
    assert sorted(sorted(kinds) for kinds in sums) == [
        ["Conv", "DequantizeLinear"],
        ["Conv", "DequantizeLinear"],
        ["Conv", "Relu"],
    ]
    loose = next(node for node in graph.node if node.name == "4.second.0/Conv")
    assert made_by[loose.input[0]].op_type == "Relu"
    weight = next(tensor for tensor in graph.initializer if tensor.name == loose.input[1])
    assert weight.data_type == TensorProto.FLOAT16
