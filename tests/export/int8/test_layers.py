"""Layers that see no pixels stay in float: their output is the same for any picture of a size."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from export.int8 import Quantizer
from export.int8.layers import without_pixels
from export.onnx import export_onnx, load
from tests.helpers.classifiers import MEAN, STD

SIZE = 16


class Positions(nn.Module):
    """A convolution of the picture, and one of the places in it, as in EdgeNeXt; a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.place, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(2, 16, 3), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.ones(images.shape[0], 2, *images.shape[2:]).cumsum(2)
        return self.head((self.conv(images) + self.place(rows.sin())).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory: pytest.TempPathFactory) -> Quantizer:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("positions") / "model.onnx"
    export_onnx(Positions().eval(), path, image_size=SIZE, metadata={})
    pixels = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
    return Quantizer(path, pixels, MEAN, STD, method="minmax", threads=1)


def test_they_are_those_whose_output_no_picture_changes(quantizer: Quantizer, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(quantizer.model)
    shown = onnx.shape_inference.infer_shapes(model).graph
    kinds = {info.name: info for info in (*shown.value_info, *shown.output)}
    outputs = {node.output[0]: node.name for node in model.graph.node}
    del model.graph.output[:]
    model.graph.output.extend(kinds[name] for name in outputs)
    onnx.save(model, tmp_path / "all.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx")
    pictures = np.random.default_rng(1).standard_normal((2, 1, 3, SIZE, SIZE), dtype=np.float32)
    first, second = (session.run(list(outputs), {session.get_inputs()[0].name: picture}) for picture in pictures)
    same = {name for name, a, b in zip(outputs.values(), first, second, strict=True) if np.array_equal(a, b)}
    assert without_pixels(quantizer.model) == same
    assert same & {node.name for node in model.graph.node if node.op_type == "Conv"}


@pytest.mark.parametrize("target", ["ort", "trt"])
def test_neither_runtime_has_them_in_int8(quantizer: Quantizer, target: str, tmp_path: Path) -> None:
    convs = {node.name for node in quantizer.model.graph.node if node.op_type == "Conv"}
    left = convs & without_pixels(quantizer.model)
    assert (len(convs), len(left)) == (2, 1)
    assert convs & set(quantizer.layers) == convs - left
    quantizer.write(tmp_path / "int8.onnx", target=target)
    graph = load(tmp_path / "int8.onnx").graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    fed = {node.name: producers.get(node.input[0]) for node in graph.node if node.name in convs}
    assert {name for name, kind in fed.items() if kind == "DequantizeLinear"} == convs - left
