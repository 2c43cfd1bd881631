"""The preprocessing inside the graph against that of the evaluation, whose own reference is timm (test_fit)."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
from PIL import Image
from scipy.special import softmax

from compress.data.decode import Square, read_rgb
from compress.data.preprocessing import Preprocessing
from compress.data.walk import is_picture
from compress.models.folder import read_config
from export.onnx import add_preprocessing, export_onnx, export_preprocessing
from export.runtimes import OrtRuntime
from export.tensorrt.library import tensorrt, tensorrt_logger
from export.tensorrt.lint import lint_for_tensorrt
from tests.helpers.paths import SHARED_WEIGHTS

WEIGHTS = SHARED_WEIGHTS / "tf_efficientnet_lite0"
SIZES = ((375, 500), (500, 375), (160, 160), (183, 190), (1, 1), (1, 30), (40, 1), (30, 630), (630, 30), (64, 65))
FITS = [Square(64, "bicubic", 0.875, fit, (124, 116, 104)) for fit in ("crop", "stretch", "pad")]


def values(square: Square, folder: Path, pictures: np.ndarray) -> np.ndarray:
    """The graph's pixels, before they are normalised: float32 [N, size, size, 3]."""
    path = folder / "preprocess.onnx"
    export_preprocessing(path, square, mean=[0, 0, 0], std=[1 / 255] * 3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["input"], {"pixels": pictures})[0]).transpose(0, 2, 3, 1)


def noise(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("square", FITS, ids=lambda square: square.fit)
def test_pictures_of_any_size_become_the_squares_of_the_evaluation(square: Square, tmp_path: Path) -> None:
    differing = []
    for height, width in SIZES:
        picture = noise(height, width)
        expected = square(Image.fromarray(picture[0]))
        steps = np.abs(values(square, tmp_path, picture)[0] - expected)
        assert steps.max() <= 1.001, (height, width)
        differing.append((steps > 0.5).mean())
    assert np.mean(differing) < 1e-3


@pytest.mark.parametrize("kernel", ["bilinear", "lanczos", "hamming"])
def test_the_other_filters_are_pillows_too(kernel: str, tmp_path: Path) -> None:
    square = Square(64, kernel, 0.9)  # type: ignore[arg-type]
    for height, width in ((375, 500), (50, 41)):
        picture = noise(height, width)
        assert np.abs(values(square, tmp_path, picture)[0] - square(Image.fromarray(picture[0]))).max() <= 1.001


@pytest.mark.parametrize("kernel", ["box", "nearest"])
def test_box_and_nearest_are_pillows_but_for_ties(kernel: str, tmp_path: Path) -> None:
    square = Square(64, kernel)  # type: ignore[arg-type]
    for height, width in ((375, 500), (51, 41)):
        picture = noise(height, width)
        steps = np.abs(values(square, tmp_path, picture)[0] - square(Image.fromarray(picture[0])))
        assert (steps > 1.001).mean() < 0.05


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_a_picture_of_that_size_passes_bit_by_bit(fit: str, tmp_path: Path) -> None:
    picture = noise(48, 48, count=3)
    square = Square(48, fit=fit)  # type: ignore[arg-type]
    assert np.array_equal(values(square, tmp_path, picture).round(), picture)


def test_a_batch_is_its_pictures_one_by_one(tmp_path: Path) -> None:
    pictures = noise(90, 70, count=3)
    together = values(FITS[0], tmp_path, pictures)
    for number in range(3):
        assert np.abs(values(FITS[0], tmp_path, pictures[number][None])[0] - together[number]).max() <= 1.001


@pytest.mark.parametrize("square", [*FITS, Square(64, "bilinear"), Square(64, "lanczos")], ids=lambda s: s.key)
def test_tensorrt_takes_pictures_of_any_size(square: Square, tmp_path: Path, builder: None) -> None:
    path = tmp_path / "preprocess.onnx"
    export_preprocessing(path, square, mean=[0.5] * 3, std=[0.25] * 3)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    trt = tensorrt()
    builds = trt.Builder(tensorrt_logger())
    network = builds.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, tensorrt_logger()).parse(path.read_bytes())
    assert tuple(network.get_input(0).shape) == (-1, -1, -1, 3)
    assert not lint_for_tensorrt(path)


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="the weights are not beside the checkout")
def test_photos_get_the_same_class_and_nearly_the_same_probabilities(real_photos: Path, tmp_path: Path) -> None:
    model = timm.create_model(f"local-dir:{WEIGHTS}", pretrained=True).eval()
    seen = Preprocessing.of(read_config(WEIGHTS)["pretrained_cfg"], "lite0")
    assert seen.mean is not None
    assert seen.std is not None
    square, plain, pixels = Square.of(160, seen), tmp_path / "plain.onnx", tmp_path / "pixels.onnx"
    export_onnx(model, plain, image_size=160, metadata={})
    add_preprocessing(plain, pixels, square, mean=seen.mean, std=seen.std)
    evaluate = OrtRuntime(plain, seen.mean, seen.std)
    session = onnxruntime.InferenceSession(pixels, providers=["CPUExecutionProvider"])
    paths = sorted(path for path in (real_photos / "validation").rglob("*") if is_picture(path.name))
    expected = softmax(evaluate(np.stack([square.read(path) for path in paths])).astype(np.float64), axis=1)
    found = np.concatenate(
        [np.asarray(session.run(["probabilities"], {"pixels": read_rgb(path)[None]})[0]) for path in paths]
    )
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.995
    assert np.abs(found - expected).max() < 0.01
