"""The ONNX file against torch itself, read by plain onnx and onnxruntime."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from timm.layers import LayerNorm2d
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from compress.data.decode import Square
from compress.system.errors import InputError
from export.onnx import add_preprocessing, export_onnx
from tests.helpers.classifiers import ALL, MEAN, SIZE, STD, Exported, digits, float_logits, normalised, small_net
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", ALL)
def test_logits_equal_torch_at_every_batch(exported: Callable[[str], Exported], name: str) -> None:
    case = exported(name)
    session = onnxruntime.InferenceSession(case.path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 7, 16):
        images = case.images[200 * batch % 1500 :][:batch]
        expected = float_logits(case.model, images)
        actual = session.run(["logits"], {"input": normalised(images)})[0]
        # Random deep nets amplify rounding: torch itself is off by 1e-5 to 3e-5 of the largest logit against float64.
        # With AVX2 mobileone_s0 is off by 1.04e-4 in ONNX Runtime.
        allowed = 2e-4 if name == "mobileone_s0" else 1e-4
        assert np.abs(actual - expected).max() <= allowed * max(1.0, np.abs(expected).max())
    assert expected.std(axis=0).mean() > 0.1, "logits that do not depend on the image would make this test say nothing"


@pytest.mark.parametrize("name", ALL)
def test_file_is_self_contained_valid_and_clean(exported: Callable[[str], Exported], name: str) -> None:
    path = exported(name).path
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    image, logits = model.graph.input[0], model.graph.output[0]
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == ["batch", 3, SIZE, SIZE]
    assert [dim.dim_param or dim.dim_value for dim in logits.type.tensor_type.shape.dim] == ["batch", 10]
    assert (image.name, logits.name) == ("input", "logits")
    assert not [node.name for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert not [tensor.name for tensor in model.graph.initializer if tensor.data_location]
    assert {prop.key: prop.value for prop in model.metadata_props} == {"class_names": "a\nb", "run": "r"}
    del model.graph.initializer[:]
    assert b".py" not in model.SerializeToString()
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


def test_opset_is_20_only_where_gelu_or_layernorm_need_it(exported: Callable[[str], Exported]) -> None:
    for name, opset, native in (("resnet18", 18, set()), ("convnext_atto", 20, {"Gelu", "LayerNormalization"})):
        model = onnx.load(exported(name).path)
        assert model.opset_import[0].version == opset
        assert native <= {node.op_type for node in model.graph.node}


def test_reparameterised_models_lose_their_branches(exported: Callable[[str], Exported]) -> None:
    case = exported("mobileone_s0")
    convs = [node for node in onnx.load(case.path).graph.node if node.op_type == "Conv"]
    in_training = [module for module in case.model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) < len(in_training) / 1.5


def test_global_pooling_after_layernorm_is_a_plain_mean(tmp_path: Path) -> None:
    """ATen's pooling of channels-last activations would become Range and Gather over the whole batch."""
    torch.manual_seed(0)
    pool, head = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), LayerNorm2d(8), pool, LayerNorm2d(8), nn.Flatten(), head).eval()
    export_onnx(model, tmp_path / "m.onnx", image_size=16, metadata={})
    kinds = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert "ReduceMean" in kinds
    assert not kinds & {"Range", "Gather"}


def test_nodes_are_named_after_modules(exported: Callable[[str], Exported]) -> None:
    case = exported("resnet18")
    modules = {name for name, module in case.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    nodes = {
        node.name.rpartition("/")[0] for node in onnx.load(case.path).graph.node if node.op_type in ("Conv", "Gemm")
    }
    assert nodes == modules


def test_exporting_leaves_the_model_alone(tmp_path: Path) -> None:
    model = small_net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    export_onnx(model, tmp_path / "m.onnx", image_size=16, metadata={})
    assert model.training
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


EXPORT_IN_A_PROCESS = """
import sys, torch
from pathlib import Path
from export.onnx import export_onnx
from tests.helpers.classifiers import small_net
torch.manual_seed(0)
export_onnx(small_net(), Path(sys.argv[1]), image_size=16, metadata={"b": "2", "a": "1"})
"""


def test_the_same_weights_give_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(small_net(), tmp_path / "here.onnx", image_size=16, metadata={"a": "1", "b": "2"})
    subprocess.run(
        [sys.executable, "-c", EXPORT_IN_A_PROCESS, str(tmp_path / "there.onnx")],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "there.onnx").read_bytes()


def test_a_model_that_cannot_be_traced_is_an_input_error(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    with pytest.raises(InputError) as caught:
        export_onnx(Branches(), tmp_path / "m.onnx", image_size=16, metadata={})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("source_size", [16, 32, 48])
def test_pixels_graph_equals_torch(exported: Callable[[str], Exported], tmp_path: Path, source_size: int) -> None:
    case, out = exported("resnet18"), tmp_path / "pixels.onnx"
    add_preprocessing(case.path, out, Square(SIZE), mean=MEAN, std=STD)
    onnx.checker.check_model(onnx.load(out), full_check=True)
    images = digits(source_size)[0][:7]
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert (session.get_inputs()[0].type, session.get_inputs()[0].name) == ("tensor(uint8)", "pixels")
    assert session.get_inputs()[0].shape == ["batch", "height", "width", 3]
    actual = session.run(["probabilities"], {"pixels": images})[0]
    # torchvision's antialiased resize of uint8, which rounds between its two passes as Pillow does.
    planes = torch.from_numpy(images).permute(0, 3, 1, 2)
    resized = functional.resize(planes, [SIZE, SIZE], InterpolationMode.BICUBIC, antialias=True)
    expected = torch.from_numpy(float_logits(case.model, resized.permute(0, 2, 3, 1).numpy())).softmax(1).numpy()
    # A value halfway between two pixels may round either way.
    np.testing.assert_allclose(actual, expected, atol=1e-5 if source_size == SIZE else 1e-3)
    assert onnx.load(out).metadata_props[0].value == "a\nb"
