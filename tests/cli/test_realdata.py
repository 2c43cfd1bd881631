"""Real images in their published layouts. Skips where they are absent: they lie beside the checkout, not in it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compress.data import load_data
from compress.recipe import Data
from tests.helpers.command import Command
from tests.helpers.paths import UNPACK

pytestmark = [
    pytest.mark.slow,
    pytest.mark.realdata,
    pytest.mark.skipif(not UNPACK.exists(), reason="the real data sets are not beside the checkout"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    subprocess.run([sys.executable, UNPACK, folder], check=True, capture_output=True)
    return folder


def test_cifar100_has_its_published_shape_and_statistics(root: Path) -> None:
    data = load_data(Data(name="cifar100", root=str(root)))
    assert (data.train_images.shape, data.eval_images.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert set(np.bincount(data.train_labels).tolist()) == {500}
    assert set(np.bincount(data.eval_labels).tolist()) == {100}
    assert data.class_names[:3] == ["apple", "aquarium_fish", "baby"]
    # The values that are in use for CIFAR-100 everywhere.
    np.testing.assert_allclose(data.mean, (0.5071, 0.4865, 0.4409), atol=5e-4)
    np.testing.assert_allclose(data.std, (0.2673, 0.2564, 0.2762), atol=5e-4)


def test_tiny_imagenet_has_all_200_classes_and_its_whole_val_split(root: Path) -> None:
    data = load_data(Data(name="tinyimagenet", root=str(root)))
    assert data.num_classes == len(set(data.class_names)) == 200
    assert data.eval_images.shape == (10_000, 64, 64, 3)
    assert set(np.bincount(data.eval_labels).tolist()) == {50}
    assert len(set(np.bincount(data.train_labels).tolist())) == 1


def test_a_student_is_distilled_and_exported_on_real_images(command: Command, root: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "cinic.yaml"
    recipe.write_text(
        f"data: {{name: cinic10, root: '{root}'}}\n"
        "teacher: {model: resnet10t, stem: stock, args: {channels: [16, 32, 64, 128]}, epochs: 4}\n"
        "student: {model: resnet10t, stem: stock, args: {channels: [16, 16, 32, 64]}}\n"
        "train: {epochs: 4, batch_size: 64, lr: 0.05, precision: fp32}\n"
    )
    result = command("distill", recipe, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["student_top1"] > 0.15  # ten classes, 2,000 images, seconds of training: better than chance
    exported = command("export", "--precision", "int8", "--json", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    files = json.loads(exported.stdout)["files"]
    assert files["student.onnx"]["top1"] == pytest.approx(manifest["student_top1"], abs=0.002)
    assert files["student.int8.onnx"]["int8_macs"] >= 0.9
