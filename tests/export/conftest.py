"""Exported files that several tests look at, made once."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.system.errors import MachineError
from export.onnx import export_onnx
from export.tensorrt import tensorrt
from tests.helpers.classifiers import SIZE, Digits, Exported, digits, digits_split, random_model, trained_net


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Name -> a timm model with random weights and its ONNX file; each is exported once."""
    folder = tmp_path_factory.mktemp("exported")
    known: dict[str, Exported] = {}
    images = digits(SIZE)[0]

    def get(name: str) -> Exported:
        if name not in known:
            model, path = random_model(name), folder / f"{name}.onnx"
            export_onnx(model, path, image_size=SIZE, metadata={"class_names": "a\nb", "run": "r"})
            known[name] = Exported(model, path, images)
        return known[name]

    return get


@pytest.fixture(scope="session")
def data() -> Digits:
    return digits_split()


@pytest.fixture(scope="session")
def trained(data: Digits) -> nn.Module:
    return trained_net(data)


@pytest.fixture(scope="session")
def hostile(trained: nn.Module) -> nn.Module:
    """The trained net with weights in its second convolution far beyond the others, for a channel that is always 0.

    In float they change nothing; in 8 bits all other weights of those filters round to 0.
    """
    model = copy.deepcopy(trained)
    first, norm, _, second = list(model.children())[:4]
    with torch.no_grad():
        first.weight[0], norm.weight[0], norm.bias[0] = 0, 0, -1.0
        second.weight[:8, 0, 1, 1] = 300.0
    return model


@pytest.fixture(scope="session")
def trained_onnx(trained: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "student.onnx"
    export_onnx(trained, path, image_size=16, metadata={})
    return path


@pytest.fixture(scope="session")
def builder() -> None:
    """Skips where neither TensorRT nor TensorRT for RTX is installed."""
    try:
        tensorrt()
    except MachineError as error:
        pytest.skip(str(error))
