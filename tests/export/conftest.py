"""Exported files that several tests look at, made once."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from compress.errors import MachineError
from export.onnx_export import export_onnx
from export.trt import tensorrt
from tests.export.classifiers import SIZE, Digits, digits, digits_split, random_model, trained_net


@dataclass(frozen=True)
class Exported:
    model: nn.Module
    path: Path
    images: np.ndarray


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
