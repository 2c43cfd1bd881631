"""Runs with published weights, for the tests of the real command. Tests only read what is made here."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Command
from tests.helpers.pictures import write_images
from tests.helpers.published import SMALL, publish

RECIPE = """\
data: {name: folder, root: DATA, image_size: 32, augment: {scale: 0.5, flip: true}}
teacher: {model: resnet14t, source: finetune, weights: TEACHER, epochs: 2, train: {lr: 0.002}}
student: {model: resnet10t, pretrained: STUDENT}
supervision: {method: kd}
train: {epochs: 2, batch_size: 16}
"""


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noise of 48 x 40 pixels."""
    root = tmp_path_factory.mktemp("pictures")
    for number, name in enumerate(("dark", "grey", "light")):
        write_images(root / "train" / name, 20, seed=number, size=48, shade=80 * number)
        write_images(root / "val" / name, 12, seed=100 + number, size=40, shade=80 * number)
    return root


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of weights of 5 other classes, by the role that they are for."""
    root = tmp_path_factory.mktemp("published")
    publish("resnet14t", root / "teacher", args=SMALL, mean=(0.4, 0.4, 0.5), interpolation="bicubic", crop_pct=0.8)
    publish("resnet10t", root / "student", args=SMALL, seed=1)
    publish("vit_tiny_patch16_224", root / "headless", args={"num_classes": 0, "embed_dim": 48, "depth": 2})
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="session")
def photos(pictures: Path, published: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "photos.yaml"
    text = RECIPE.replace("DATA", str(pictures)).replace("TEACHER", str(published["teacher"]))
    path.write_text(text.replace("STUDENT", str(published["student"])))
    return path


@pytest.fixture(scope="session")
def transferred(command: Command, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, below a folder that also holds its teacher. Tests only read it."""
    home = tmp_path_factory.mktemp("transferred")
    result = command("distill", photos, "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    return home / json.loads(result.stdout)["run"]
