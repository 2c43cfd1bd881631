"""Models that are made, saved and read again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from compress import models, recipe
from compress.data import Dataset, load_data
from compress.recipe import Data
from compress.system.errors import InputError, UsageError


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(Data(name="digits", image_size=16))


def make(name: str = "resnet10t", stem: str = "auto", classes: int = 10, **args: object) -> nn.Module:
    torch.manual_seed(0)
    settings = recipe.Model.model_validate({"model": name, "stem": stem, "args": args})
    return models.create_model(settings, num_classes=classes, image_size=16)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet50d", "resnet10t"])
def test_the_small_stem_keeps_the_resolution_and_changes_nothing_else(name: str) -> None:
    small, stock = timm.create_model(f"{name}_smallstem"), timm.create_model(name)
    image = torch.randn(1, 3, 32, 32)
    stem = small.maxpool(small.act1(small.bn1(small.conv1(image))))
    assert stem.shape[-2:] == (32, 32)
    assert small.forward_features(image).shape[-2:] == (4, 4)
    changed = {key for key, value in small.state_dict().items() if value.shape != stock.state_dict()[key].shape}
    assert changed <= {"conv1.weight"}
    assert small.state_dict().keys() == stock.state_dict().keys()
    features = small.forward_intermediates(image, intermediates_only=True)
    assert [info["reduction"] for info in small.feature_info] == [32 // f.shape[-1] for f in features]


def test_auto_takes_the_small_stem_where_there_is_one_and_images_are_small() -> None:
    def name(model: str, stem: str, size: int) -> str:
        return models.architecture(recipe.Model.model_validate({"model": model, "stem": stem}), size)

    assert name("resnet18", "auto", 32) == "resnet18_smallstem"
    assert name("resnet18", "auto", 224) == "resnet18"
    assert name("resnet18", "stock", 32) == "resnet18"
    assert name("mobilenetv3_small_100", "auto", 32) == "mobilenetv3_small_100"
    with pytest.raises(UsageError, match="none"):
        name("mobilenetv3_small_100", "small", 32)
    with pytest.raises(UsageError, match="Did you mean resnet18"):
        name("resnet-18", "auto", 32)


def test_bad_arguments_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="num_classes"):
        make(num_classes=3)
    with pytest.raises(UsageError, match="chanels"):
        make(chanels=[8, 8, 8, 8])


def test_a_vision_transformer_is_made_for_the_data_s_size() -> None:
    model = make("vit_tiny_patch16_224", patch_size=8)
    assert model(torch.zeros(1, 3, 16, 16)).shape == (1, 10)


@pytest.mark.parametrize(("name", "first"), [("mobilenetv3_small_100", ""), ("resnet10t", "import compress; ")])
def test_a_saved_model_opens_in_timm_in_a_fresh_process(tmp_path: Path, digits: Dataset, name: str, first: str) -> None:
    model = make(name).eval().to(memory_format=torch.channels_last)
    sha256 = models.save_model(model, tmp_path / "student", digits)
    image = torch.randn(2, 3, 16, 16)
    torch.save(image, tmp_path / "image.pt")
    program = (
        f"{first}import timm, torch; model = timm.create_model('local-dir:student', pretrained=True).eval();"
        "torch.save(model(torch.load('image.pt')).detach(), 'logits.pt')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), model(image).detach(), atol=1e-5, rtol=1e-4)
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["label_names"] == digits.class_names
    assert config["pretrained_cfg"]["mean"] == list(digits.mean)
    assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]
    if first:
        assert "import compress" in (tmp_path / "student" / "README.md").read_text()
    assert models.save_model(model, tmp_path / "again", digits) == sha256  # no dates or paths inside


def test_damaged_weights_are_input_errors(tmp_path: Path, digits: Dataset) -> None:
    models.save_model(make(), tmp_path / "saved", digits)
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError):
        models.load_model(tmp_path / "saved")
    (tmp_path / "saved" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        models.load_model(tmp_path / "saved")


def test_a_run_in_place_of_a_model_is_told_where_its_models_are(tmp_path: Path) -> None:
    for role in ("teacher", "student"):
        (tmp_path / role).mkdir()
        (tmp_path / role / "config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        models.read_config(tmp_path)
    assert f"its models are {tmp_path / 'teacher'} and {tmp_path / 'student'}" in str(caught.value)
