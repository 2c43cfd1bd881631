"""The lint against TensorRT's own parser: what one refuses the other must refuse. The parser judges where it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compress.system.errors import MachineError
from export.int8 import Quantizer
from export.tensorrt.library import tensorrt, tensorrt_logger
from export.tensorrt.lint import ALLOWED_OPERATORS, RESIZE_COORDINATES, lint_for_tensorrt
from export.tensorrt.parser import refusals
from tests.helpers.classifiers import MEAN, STD, Digits


def parser_accepts(path: Path) -> bool:
    trt = tensorrt()
    builder = trt.Builder(tensorrt_logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return trt.OnnxParser(network, tensorrt_logger()).parse(path.read_bytes())


def one_node(
    path: Path, node: onnx.NodeProto, constants: dict[str, np.ndarray], domains: tuple[str, ...] = ("",)
) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "g", [x], [y], tensors)
    opsets = [helper.make_opsetid(domain, 18 if domain == "" else 1) for domain in domains]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)


def resize(path: Path, **attributes: Any) -> None:
    """One Resize to twice the size."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], name="n", **attributes)
    one_node(path, node, {"scales": np.array([2, 2], np.float32)})


@pytest.fixture
def broken(tmp_path: Path, trained_onnx: Path, data: Digits) -> Callable[[str], tuple[Path, str]]:
    """Kind -> a file that TensorRT refuses, and what the lint must say about it."""

    def make(kind: str) -> tuple[Path, str]:
        path = tmp_path / "broken.onnx"
        quantizer = Quantizer(trained_onnx, data.train_images[:32], MEAN, STD)
        if kind == "onnxruntime's int8":
            quantizer.write(path, target="ort")
            return path, "input_QuantizeLinear (QuantizeLinear): it is uint8"
        if kind == "a zero point":
            quantizer.write(path, target="trt")
            model = onnx.load(path)
            node = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
            zero = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
            zero.CopyFrom(numpy_helper.from_array(np.int8(3) * np.ones_like(numpy_helper.to_array(zero)), zero.name))
            onnx.save(model, path)
            return path, "its zero point is not 0"
        if kind == "another domain":
            one_node(
                path,
                helper.make_node("FastGelu", ["x"], ["y"], name="n", domain="com.microsoft"),
                {},
                ("", "com.microsoft"),
            )
            return path, "n (FastGelu): the operator domain com.microsoft"
        if kind == "an unknown operator":
            one_node(path, helper.make_node("Det", ["x"], ["y"], name="n"), {})
            return path, "n (Det): TensorRT has no such operator"
        if kind == "antialiasing":
            resize(path, mode="linear", antialias=1)
            return path, "n (Resize): TensorRT has no antialiasing"
        if kind == "coordinates":
            resize(path, mode="linear", coordinate_transformation_mode="half_pixel_symmetric")
            return path, "n (Resize): TensorRT has no coordinates half_pixel_symmetric"
        if kind == "computed axes":
            node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="n")
            one_node(path, node, {})
            model = onnx.load(path)
            model.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [1]))
            onnx.save(model, path)
            return path, "n (ReduceMean): its axes are computed"
        one_node(path, helper.make_node("Transpose", ["x"], ["y"], name="n", perm=[1, 0]), {})
        model = onnx.load(path)
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.elem_type = TensorProto.UINT8
        onnx.save(model, path)
        # Transposing bytes is computing with them; the parser says so only when it types the network strongly.
        return path, "input x is uint8, which TensorRT can only cast, and n (Transpose) takes it"

    return make


KINDS = (
    "onnxruntime's int8",
    "a zero point",
    "another domain",
    "an unknown operator",
    "antialiasing",
    "coordinates",
    "computed axes",
    "bytes",
)


@pytest.mark.parametrize("kind", KINDS)
def test_lint_names_what_the_parser_refuses(
    broken: Callable[[str], tuple[Path, str]], builder: None, kind: str
) -> None:
    path, expected = broken(kind)
    found = lint_for_tensorrt(path)
    assert expected in "\n".join(found)
    assert not parser_accepts(path)


def test_lint_refuses_stored_8_bit_weights(trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    """These parse only where a GPU driver is present, so the parser is no witness here."""
    path = tmp_path / "stored.onnx"
    Quantizer(trained_onnx, data.train_images[:32], MEAN, STD).write(path, target="ort")
    assert any("weights must be float behind a pair" in line for line in lint_for_tensorrt(path))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", sorted(RESIZE_COORDINATES))
def test_lint_takes_every_other_resize_that_the_parser_takes(
    builder: None, tmp_path: Path, mode: str, coordinates: str
) -> None:
    path = tmp_path / "m.onnx"
    resize(path, mode=mode, coordinate_transformation_mode=coordinates)
    assert parser_accepts(path) == (lint_for_tensorrt(path) == [])


def test_the_operators_are_those_that_the_parser_knows(builder: None) -> None:
    trt = tensorrt()
    network = trt.Builder(tensorrt_logger()).create_network(0)
    parser = trt.OnnxParser(network, tensorrt_logger())
    names = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == ""}
    assert {name for name in names if parser.supports_operator(name)} == ALLOWED_OPERATORS & names


def test_the_parser_judges_where_it_is_and_the_lint_where_it_is_not(
    builder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    one_node(path, helper.make_node("MaxPool", ["x"], ["y", "indices"], name="n", kernel_shape=[2]), {})
    assert not parser_accepts(path)
    assert lint_for_tensorrt(path) == []
    (reason,) = refusals(path)
    assert reason.startswith("n (MaxPool): ")

    def missing() -> None:
        raise MachineError("TensorRT is not installed")

    monkeypatch.setattr("export.tensorrt.parser.tensorrt", missing)
    assert refusals(path) == []
