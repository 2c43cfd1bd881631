"""Weights in 8 bits: the graph computes what it did, and holds a quarter."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from export.int8 import Quantizer
from export.onnx import load, save
from export.openvino.weights import store_int8_weights
from tests.helpers.classifiers import MEAN, STD, Digits, normalised


@pytest.mark.parametrize("target", ["ort", "trt"])
def test_the_answers_are_the_same_and_the_weights_are_integers(
    trained_onnx: Path, data: Digits, tmp_path: Path, target: str
) -> None:
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    Quantizer(trained_onnx, data.train_images[:32], MEAN, STD).write(before, target=target)  # type: ignore[arg-type]
    model = load(before)
    store_int8_weights(model)
    save(model, after)
    answers = [
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
            None, {"input": normalised(data.eval_images[:32])}
        )[0]
        for path in (before, after)
    ]
    np.testing.assert_allclose(*answers, atol=0.005 * np.abs(answers[0]).max())
    convolved = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    made = {output: node for node in model.graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    stored = [constants[made[name].input[0]] for name in convolved if made.get(name, onnx.NodeProto()).input]
    assert len(stored) == len(convolved)
    assert {tensor.data_type for tensor in stored} == {onnx.TensorProto.INT8}
