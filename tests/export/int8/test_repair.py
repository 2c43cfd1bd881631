"""What repairs an INT8 file: means against those in float, equalised nets against what they were, what is chosen."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from compress.system.errors import GateError
from export.int8.bias import corrected
from export.int8.equalize import equalized
from export.int8.layers import linear, quantized_layers
from export.int8.quantize import Quantizer, has_vnni
from export.onnx import export_onnx
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits, normalised
from tests.helpers.exporting import SETTINGS, export_to


def tensors(path: Path, names: list[str], images: np.ndarray) -> list[np.ndarray]:
    """What is inside a graph."""
    model = onnx.load(path)
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(names, {"input": normalised(images)})]


def output_of(path: Path, layer: str) -> list[str]:
    return [node.output[0] for node in onnx.load(path).graph.node if node.name == layer]


@pytest.fixture(scope="module")
def coarse(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantizer]:
    """The trained net with one weight of each filter far larger than the others, whose rounding then is coarse."""
    model, path = onnx.load(trained_onnx), tmp_path_factory.mktemp("coarse") / "student.onnx"
    second = [node for node in model.graph.node if node.op_type == "Conv"][1]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == second.input[1])
    values = numpy_helper.to_array(tensor).copy()
    values[:, 0, 0, 0] = 12 * np.abs(values).max()
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    return path, Quantizer(path, data.train_images[:128], MEAN, STD, method="minmax")


@pytest.mark.parametrize("target", ["ort", "trt"])
def test_bias_correction_gives_a_layer_its_mean_back(
    coarse: tuple[Path, Quantizer], data: Digits, tmp_path: Path, target: str
) -> None:
    path, quantizer = coarse
    images = data.train_images[:128]
    better = corrected(quantizer, images, MEAN, STD, target=target)  # type: ignore[arg-type]
    layer = [node.name for node in onnx.load(path).graph.node if node.op_type == "Conv"][1]
    (exact,) = tensors(path, output_of(path, layer), images)
    wrong = []
    for number, each in enumerate((quantizer, better)):
        file = tmp_path / f"{number}.onnx"
        each.write(file, target=target)  # type: ignore[arg-type]
        (found,) = tensors(file, output_of(file, layer), images)
        wrong.append(np.abs(found.mean((0, 2, 3)) - exact.mean((0, 2, 3))).max())
    assert wrong[1] < 0.35 * wrong[0]
    assert [node.name for node in quantizer.model.graph.node] == [node.name for node in better.model.graph.node]


def test_bias_correction_changes_nothing_where_nothing_is_quantised_wrongly(
    trained_onnx: Path, data: Digits, tmp_path: Path
) -> None:
    quantizer = Quantizer(trained_onnx, data.train_images[:64], MEAN, STD)
    better = corrected(quantizer, data.train_images[:64], MEAN, STD, target="ort")
    paths = [tmp_path / "plain.onnx", tmp_path / "corrected.onnx"]
    for each, path in zip((quantizer, better), paths, strict=True):
        each.write(path, target="ort")
    plain, other = (tensors(path, ["logits"], data.eval_images)[0] for path in paths)
    assert (plain.argmax(1) == other.argmax(1)).mean() > 0.98


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.Conv2d(4, 4, (3, 1), stride=2, padding=(2, 0), groups=4, bias=False),
        nn.Conv2d(4, 8, 3, dilation=2, groups=2, bias=False),
    ],
)
def test_a_layer_without_its_bias_is_torchs_convolution(conv: nn.Conv2d, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(nn.Sequential(conv), tmp_path / "conv.onnx", image_size=9, channels=4, metadata={})
    (node,) = (node for node in onnx.load(tmp_path / "conv.onnx").graph.node if node.op_type == "Conv")
    inputs = np.random.default_rng(0).normal(size=(4, 9, 9)).astype(np.float32)
    with torch.inference_mode():
        expected = conv(torch.from_numpy(inputs)[None])[0].mean((1, 2)).numpy()
    np.testing.assert_allclose(linear(node, inputs, conv.weight.detach().numpy()), expected, atol=1e-6)


@pytest.mark.parametrize("target", ["ort", "trt"])
def test_the_weights_of_a_quantised_file_are_read_as_they_are_multiplied(
    trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path, target: str
) -> None:
    quantizer = Quantizer(trained_onnx, data.train_images[:32], MEAN, STD)
    quantizer.write(tmp_path / "a.onnx", target=target)  # type: ignore[arg-type]
    layers = quantized_layers(tmp_path / "a.onnx")
    known = {entry.name: numpy_helper.to_array(entry) for entry in quantizer.model.graph.initializer}
    convolutions = [node for node in quantizer.model.graph.node if node.op_type == "Conv" and node.name in layers]
    assert convolutions
    for node in convolutions:
        weight = known[node.input[1]]
        step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / (127 if target == "trt" or has_vnni() else 64)
        if target == "trt":  # there weights and scales are FP16
            weight, step = (values.astype(np.float16).astype(np.float32) for values in (weight, step))
        np.testing.assert_allclose(layers[node.name].weight, np.rint(weight / step) * step, atol=1e-5)


class Separable(nn.Module):
    """Depthwise convolutions whose channels differ a hundredfold, as a folded BatchNorm leaves them."""

    def __init__(self, act: Callable[[], nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.act, self.head = act(), nn.Linear(8, 10)
        with torch.no_grad():
            spread = torch.logspace(-2, 0.3, 16)
            self.a.weight *= 4 * spread.view(-1, 1, 1, 1)
            self.a.bias *= spread
            self.c.weight /= spread.view(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(functional.relu(self.c(self.act(self.b(self.act(self.a(x)))))).mean((2, 3)))


@pytest.mark.parametrize(("act", "gain"), [(nn.ReLU, 0.3), (nn.ReLU6, None)])
def test_an_equalised_net_computes_the_same_and_errs_less_in_int8(
    data: Digits, tmp_path: Path, act: Callable[[], nn.Module], gain: float | None
) -> None:
    """ReLU6 keeps the channels of this net closer together, so that there is nothing to gain."""
    model, images = Separable(act).eval(), data.train_images[:128]
    source, made = tmp_path / "source.onnx", tmp_path / "made.onnx"
    export_onnx(model, source, image_size=16, metadata={"run": "r"})
    assert equalized(source, made, images, MEAN, STD) == 2
    expected = float_logits(model, data.eval_images)
    scale = np.abs(expected).max()
    assert np.abs(tensors(made, ["logits"], data.eval_images)[0] - expected).max() < 1e-4 * scale
    entering = next(node.input[0] for node in onnx.load(made).graph.node if node.name == "b/Conv")
    before, after = (tensors(path, [entering], images)[0].max((0, 2, 3)) for path in (source, made))
    assert after.max() <= before.max() * 1.001
    assert after.min() / after.max() > 5 * before.min() / before.max()
    wrong = []
    for path in (source, made):
        Quantizer(path, images, MEAN, STD, method="minmax").write(tmp_path / "int8.onnx", target="ort")
        wrong.append(np.abs(tensors(tmp_path / "int8.onnx", ["logits"], data.eval_images)[0] - expected).mean())
    assert gain is None or wrong[1] < (gain if has_vnni() else 0.8) * wrong[0]  # weights of 7 bits err more


@pytest.mark.parametrize("act", [nn.SiLU, nn.Hardswish])
def test_what_scaling_would_change_is_left_alone(data: Digits, tmp_path: Path, act: Callable[[], nn.Module]) -> None:
    export_onnx(Separable(act).eval(), tmp_path / "source.onnx", image_size=16, metadata={})
    assert equalized(tmp_path / "source.onnx", tmp_path / "made.onnx", data.train_images[:8], MEAN, STD) == 0
    assert not (tmp_path / "made.onnx").exists()


def test_a_file_that_no_repair_saves_is_refused_and_the_others_stay(
    hostile: nn.Module, data: Digits, tmp_path: Path
) -> None:
    """Most of the images change their class: an INT8 file that loses far more than 2 points."""
    settings = SETTINGS.model_copy(update={"min_int8_macs": 1.0, "calibration_images": 64, "sensitivity_images": 32})
    with pytest.raises(GateError, match=r"INT8 (loses|agrees).*even with"):
        export_to(tmp_path, hostile, data, settings, precisions=("fp32", "fp16", "int8"), preprocess=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"student.onnx", "student.fp16.onnx", "student.pixels.onnx", "export.json"}
