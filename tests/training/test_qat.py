"""Quantisation-aware fine-tuning against rounding written out in numpy, and against the graph that is deployed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrizations

from compress import distill, load_recipe
from compress.system.errors import UsageError
from compress.training.qat import LAYERS, float_weights, with_fake_quantization
from export.int8 import Quantizer, placement
from export.onnx import export_onnx
from export.runtimes import OrtRuntime


def rounded(values: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """To the nearest of 255 multiples of largest / 127."""
    scale = largest / 127
    return np.clip(np.rint(values / scale), -127, 127) * scale


def test_a_layer_sees_its_inputs_rounded_as_a_whole_and_its_weight_channel_by_channel() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    images = torch.randn(4, 5)
    found = with_fake_quantization(nn.Sequential(layer)).train()(images)
    weight, inputs = layer.weight.detach().numpy(), images.numpy()
    expected = rounded(inputs, np.abs(inputs).max()) @ rounded(weight, np.abs(weight).max(1, keepdims=True)).T
    np.testing.assert_allclose(found.detach().numpy(), expected + layer.bias.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(found.detach().numpy() - layer(images).detach().numpy()).max() > 1e-3


def test_the_range_of_inputs_follows_training_and_no_evaluation() -> None:
    torch.manual_seed(0)
    model = with_fake_quantization(nn.Sequential(nn.Linear(5, 3)))
    model.train()(torch.ones(4, 5))
    before = model.eval()(torch.ones(4, 5))
    model(1000 * torch.ones(4, 5))
    torch.testing.assert_close(model(torch.ones(4, 5)), before, rtol=0, atol=0)
    model.train()(1000 * torch.ones(4, 5))
    assert not torch.equal(model.eval()(torch.ones(4, 5)), before)


def test_the_gradient_passes_the_rounding_and_the_float_weights_fit_the_float_model() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", num_classes=3)
    quantized = with_fake_quantization(model)
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.1)
    quantized.train()(torch.randn(4, 3, 32, 32)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in quantized.parameters())
    optimizer.step()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(float_weights(quantized))
    assert not torch.equal(before["conv_stem.weight"], model.state_dict()["conv_stem.weight"])
    assert before.keys() == float_weights(quantized).keys()


def test_a_model_with_nothing_to_quantise_is_refused() -> None:
    with pytest.raises(UsageError, match="no convolution or linear layer"):
        with_fake_quantization(nn.Sequential(nn.Flatten()))


@pytest.mark.parametrize("parametrise", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_weight_that_is_computed_from_others_is_refused(parametrise: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), parametrise(nn.Linear(4, 3)))
    with pytest.raises(UsageError, match="the student's '2' is parametrised"):
        with_fake_quantization(model)


@pytest.mark.slow
def test_a_student_that_cannot_be_fine_tuned_is_refused_before_a_teacher_is_trained(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    student = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(192, 3)))
    with pytest.raises(UsageError, match="the student's '1' is parametrised"):
        distill(load_recipe(tiny_recipe, overrides=["train.quantize=int8"]), student=student)
    assert not (tmp_path / "runs" / "teachers").exists()


@pytest.mark.slow
def test_with_the_scales_of_the_exported_int8_graph_it_computes_what_that_graph_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph for TensorRT, quantised by ONNX Runtime and run step by step as it is written.

    Its head is in float. Here all else is, too: FP16 moves some values to the next integer.
    """
    monkeypatch.setattr(placement, "to_fp16", lambda source, dst, keep_float: shutil.copy(source, dst))
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Conv2d(c, 16, 3), nn.BatchNorm2d(16), nn.ReLU()) for c in (3, 16, 16)]
    head = [nn.Conv2d(16, 16, 3, groups=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*blocks, *head)
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    for _ in range(100):
        model.train()(inputs)  # statistics for BatchNorm
    export_onnx(model, tmp_path / "float.onnx", image_size=16, metadata={})
    quantizer = Quantizer(tmp_path / "float.onnx", images, (0.5,) * 3, (0.25,) * 3, method="minmax", threads=1)
    quantizer.write(tmp_path / "int8.onnx", target="trt")

    quantized = with_fake_quantization(model)
    for module in quantized.modules():
        module.training = not isinstance(module, nn.BatchNorm2d)  # ranges are measured, statistics stay
    quantized(inputs)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    maker = {output: node for node in graph.node for output in node.output}
    scales = [values[maker[n.input[0]].input[1]] for n in graph.node if n.op_type == "Conv"]
    layers: list[Any] = [module for module in quantized.modules() if isinstance(module, LAYERS)][:-1]
    quantized[-1] = model[-1]
    for layer, scale in zip(layers, scales, strict=True):
        assert layer.input_quantizer.scale.item() == pytest.approx(scale.item(), rel=0.1)
        layer.input_quantizer.scale.fill_(scale.item())

    with torch.no_grad():
        fake, exact = quantized.eval()(inputs).numpy(), model.eval()(inputs).numpy()
    deployed = OrtRuntime(tmp_path / "int8.onnx", (0.5,) * 3, (0.25,) * 3, threads=1, literal=True)(images)
    assert np.abs(deployed - fake).mean() < 0.05 * np.abs(deployed - exact).mean()
