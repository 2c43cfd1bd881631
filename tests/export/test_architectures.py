"""What single families of timm need, each shown by a small model with random weights at few pixels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnx import numpy_helper
from torch import nn

from compress.system.errors import InputError
from export.int8 import Quantizer
from export.int8.macs import WEIGHTED, layer_macs
from export.onnx import export_onnx, to_fp16
from export.onnx.export import deployable
from tests.helpers.classifiers import MEAN, STD, digits, float_logits, normalised, signal_to_noise_db, torch_macs

TINY: dict[str, tuple[int, dict[str, Any]]] = {
    "convnextv2_atto": (32, {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}),
    "fastvit_sa12": (64, {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 16, 32)}),
    "hiera_tiny_224": (64, {"stages": (1, 1, 1, 1), "embed_dim": 32, "img_size": 64}),
    "swin_tiny_patch4_window7_224": (64, {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "img_size": 64}),
}


class Case:
    """A tiny model, its ONNX file and pictures for it."""

    def __init__(self, name: str, folder: Path) -> None:
        size, args = TINY[name]
        torch.manual_seed(0)
        self.model = timm.create_model(name, num_classes=10, **args).eval()
        nn.init.normal_(self.model.get_classifier().weight)  # Hiera's is 0
        self.path, self.images = folder / f"{name}.onnx", digits(size)[0][:48]
        export_onnx(self.model, self.path, image_size=size, metadata={})
        self.expected = float_logits(self.model, self.images)

    def signal_to_noise_db(self, path: Path) -> float:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return signal_to_noise_db(self.expected, session.run(["logits"], {"input": normalised(self.images)})[0])


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    known: dict[str, Case] = {}
    folder = tmp_path_factory.mktemp("tiny")

    def get(name: str) -> Case:
        if name not in known:
            known[name] = Case(name, folder)
        return known[name]

    return get


def test_int8_where_symbolic_shapes_are_not_found(case: Callable[[str], Case], tmp_path: Path) -> None:
    """ONNX Runtime's inference stops at the ReduceL2 of ConvNeXtV2's normalisation."""
    found = case("convnextv2_atto")
    assert "ReduceL2" in {node.op_type for node in onnx.load(found.path).graph.node}
    quantizer = Quantizer(found.path, found.images[:16], MEAN, STD)
    for target in ("ort", "trt"):
        quantizer.write(tmp_path / "int8.onnx", target=target)
        assert found.signal_to_noise_db(tmp_path / "int8.onnx") > 15


def test_fp16_leaves_the_scales_of_a_resize_in_float(tmp_path: Path) -> None:
    """As in HRNet, CoaT and EfficientFormerV2."""
    torch.manual_seed(0)
    up = nn.Upsample(scale_factor=2, mode="nearest")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), up, nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 26 * 26, 10)).eval()
    source, half, images = tmp_path / "m.onnx", tmp_path / "fp16.onnx", digits(16)[0][:32]
    export_onnx(model, source, image_size=16, metadata={})
    to_fp16(source, half)
    graph = onnx.load(half).graph
    onnx.checker.check_model(onnx.load(half), full_check=True)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    (resize,) = (node for node in graph.node if node.op_type == "Resize")
    assert constants[resize.input[2]].dtype == np.float32
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    actual = session.run(["logits"], {"input": normalised(images)})[0]
    assert signal_to_noise_db(float_logits(model, images), actual) > 40


def test_a_batchnorm_whose_convolution_also_feeds_a_shortcut_stays(case: Callable[[str], Case], tmp_path: Path) -> None:
    found, half = case("fastvit_sa12"), tmp_path / "fp16.onnx"
    graph = onnx.load(found.path).graph
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert norms
    assert all(sum(norm.input[0] in node.input for node in graph.node) > 1 for norm in norms)
    assert found.signal_to_noise_db(found.path) > 60
    to_fp16(found.path, half)
    assert found.signal_to_noise_db(half) > 20  # written out, its attention makes ONNX Runtime refuse the FP16 file


@pytest.mark.slow
def test_attention_of_five_dimensions_is_exported(case: Callable[[str], Case]) -> None:
    found = case("hiera_tiny_224")
    assert found.signal_to_noise_db(found.path) > 60
    assert all(module.fused_attn for module in found.model.modules() if hasattr(module, "fused_attn"))


@pytest.mark.slow
def test_multiply_adds_count_every_window(case: Callable[[str], Case], tmp_path: Path) -> None:
    found = case("swin_tiny_patch4_window7_224")
    expected = torch_macs(deployable(found.model), 64)
    assert sum(count for count, _ in layer_macs(found.path, WEIGHTED).values()) == sum(expected.values())
    Quantizer(found.path, found.images[:4], MEAN, STD).write(tmp_path / "int8.onnx", target="trt")
    assert sum(count for count, _ in layer_macs(tmp_path / "int8.onnx", WEIGHTED).values()) == sum(expected.values())


def test_weights_that_no_onnx_file_holds_are_refused_in_words_before_any_work(tmp_path: Path) -> None:
    class Huge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1).expand(2**29))  # takes no memory

    with pytest.raises(InputError, match=r"weights of Huge are 2\.1 GB in FP32, and an ONNX file holds 2\.1 GB"):
        export_onnx(Huge(), tmp_path / "m.onnx", image_size=8, metadata={})
