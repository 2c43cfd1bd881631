"""The lint against TensorRT's own parser: what one refuses the other must refuse, without TensorRT installed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.int8 import Quantizer
from export.tensorrt.build import tensorrt, tensorrt_logger
from export.tensorrt.lint import lint_for_tensorrt
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


@pytest.mark.parametrize(
    "kind", ["onnxruntime's int8", "a zero point", "another domain", "an unknown operator", "computed axes", "bytes"]
)
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
