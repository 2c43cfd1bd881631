"""FP16 files: their types, and their logits against torch in float32."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from compress.system.errors import GateError
from export.onnx import export_onnx, float_operators, largest_values, to_fp16, write_emulation
from tests.helpers.classifiers import (
    ALL,
    Digits,
    Exported,
    Overflowing,
    float_logits,
    normalised,
    signal_to_noise_db,
)


@pytest.mark.parametrize("name", ALL)
def test_fp16_is_half_inside_float_outside_and_close_to_torch(
    exported: Callable[[str], Exported], tmp_path: Path, name: str
) -> None:
    case, path = exported(name), tmp_path / "fp16.onnx"
    to_fp16(case.path, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    floats = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert floats == [TensorProto.FLOAT] * 2
    kinds = Counter(tensor.data_type for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)
    assert set(kinds) == {TensorProto.FLOAT16}
    assert path.stat().st_size < 0.55 * case.path.stat().st_size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = case.images[300:364]
    actual = session.run(["logits"], {"input": normalised(images)})[0]
    assert actual.dtype == np.float32
    # A single rounding to 11 bits is 66 dB; random nets without residuals (MobileOne) amplify it most.
    assert signal_to_noise_db(float_logits(case.model, images), actual) > 15
    assert {prop.key for prop in model.metadata_props} == {"class_names", "run"}


def emulated(path: Path, images: np.ndarray) -> np.ndarray:
    emulation = path.with_name("emulation.onnx")
    write_emulation(path, emulation)
    return run(emulation, images)


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": normalised(images)})[0])


def in_numpy(path: Path, images: np.ndarray) -> np.ndarray:
    """What onnx's own reference computes, in numpy's float16."""
    with np.errstate(all="ignore"):
        return np.asarray(ReferenceEvaluator(str(path)).run(None, {"input": normalised(images)})[0])


def test_the_emulation_rounds_as_numpys_float16_does(trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    images, path = data.eval_images[:16], tmp_path / "fp16.onnx"
    to_fp16(trained_onnx, path)
    exact, expected, actual = run(trained_onnx, images), in_numpy(path, images), emulated(path, images)
    rounding = np.abs(expected - exact).max()
    assert 0 < np.abs(actual - exact).max() < 3 * rounding
    assert np.abs(run(path, images) - exact).max() < rounding, "which is why ONNX Runtime alone is no judge"


@pytest.fixture(scope="module")
def overflowing(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    assert isinstance(trained, nn.Sequential)
    model, path = Overflowing(trained, 3e5).eval(), tmp_path_factory.mktemp("overflowing") / "student.onnx"
    export_onnx(model, path, image_size=16, metadata={})
    return model, path


def test_an_overflow_that_onnxruntime_does_not_show_is_seen(
    overflowing: tuple[nn.Module, Path], data: Digits, tmp_path: Path
) -> None:
    images, path = data.eval_images[:8], tmp_path / "fp16.onnx"
    to_fp16(overflowing[1], path)
    assert np.isfinite(run(path, images)).all()
    assert not np.isfinite(in_numpy(path, images)).any()
    assert not np.isfinite(emulated(path, images)).any()


def test_operators_beyond_fp16_stay_in_float_and_the_classes_hold(
    overflowing: tuple[nn.Module, Path], data: Digits, tmp_path: Path
) -> None:
    model, source = overflowing
    images, path = data.eval_images, tmp_path / "fp16.onnx"
    largest = largest_values(source, [normalised(data.train_images[:64])])
    with torch.inference_mode():
        expected = 3e5 * float(model.front(torch.from_numpy(normalised(data.train_images[:64]))).max())  # type: ignore
    assert max(largest.values()) == pytest.approx(expected, rel=1e-4)
    assert expected > 6.5e4
    kept = float_operators(source, largest)
    assert 0 < len(kept) < len(onnx.load(source).graph.node) / 2
    assert not [name for name in kept if "Conv" in name]
    to_fp16(source, path, keep_float=kept)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    found = emulated(path, images)
    assert (found.argmax(1) == float_logits(model, images).argmax(1)).mean() > 0.99
    assert np.abs(in_numpy(path, images[:8]) - found[:8]).max() < 0.01 * np.abs(found).max()


def test_an_operator_in_float_takes_integers_as_they_are(tmp_path: Path) -> None:
    """Between a cast from integers and an operator in FP32 the value must not pass through FP16."""
    nodes = [
        helper.make_node("Shape", ["input"], ["size"], "size", start=0, end=1),
        helper.make_node("Cast", ["size"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["input", "float"], ["scaled"], "scaled"),
        helper.make_node("Add", ["scaled", "one"], ["logits"], "logits"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in ("input", "logits")]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    graph = helper.make_graph(nodes, "integers", ends[:1], ends[1:], [one])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "a.onnx")
    to_fp16(tmp_path / "a.onnx", tmp_path / "b.onnx", keep_float={"scaled"})
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"), full_check=True)
    inputs = np.full((4097, 1), 0.5, np.float32)  # FP16 has no 4097
    (found,) = ReferenceEvaluator(onnx.load(tmp_path / "b.onnx")).run(None, {"input": inputs[:3]})
    np.testing.assert_allclose(found, np.full((3, 1), 2.5))
    (found,) = ReferenceEvaluator(onnx.load(tmp_path / "b.onnx")).run(None, {"input": inputs / 4097})
    np.testing.assert_allclose(found, np.full((4097, 1), 1.5), rtol=1e-3)


def test_nothing_stays_in_float_where_nothing_is_beyond(trained_onnx: Path, data: Digits) -> None:
    largest = largest_values(trained_onnx, [normalised(data.train_images[:8])])
    made = {name for node in onnx.load(trained_onnx).graph.node for name in node.output}
    assert largest.keys() == made | {"input"}
    assert float_operators(trained_onnx, largest) == []


def test_a_weight_beyond_fp16_keeps_its_operator_in_float(trained_onnx: Path, data: Digits, tmp_path: Path) -> None:
    """For a channel that is always 0, so that the classes hold."""
    model, path = onnx.load(trained_onnx), tmp_path / "large.onnx"
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, value in ((convs[0].input[1], 0.0), (convs[0].input[2], -1.0), (convs[1].input[1], 1e5)):
        values = numpy_helper.to_array(weights[name]).copy()
        values[(slice(None), 0) if value == 1e5 else 0] = value
        weights[name].CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, path)
    kept = float_operators(path, {})
    assert kept == [convs[1].name]
    to_fp16(path, tmp_path / "fp16.onnx", keep_float=kept)
    images = data.eval_images[:64]
    np.testing.assert_array_equal(emulated(tmp_path / "fp16.onnx", images).argmax(1), run(path, images).argmax(1))


@pytest.mark.parametrize("value", [1e5, np.inf, np.nan])
def test_a_weight_outside_fp16_is_refused(trained_onnx: Path, tmp_path: Path, value: float) -> None:
    model = onnx.load(trained_onnx)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight"))
    broken = numpy_helper.to_array(weight).copy()
    broken.flat[0] = value
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError, match="65504"):
        to_fp16(tmp_path / "broken.onnx", tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()
