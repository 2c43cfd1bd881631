"""Several teachers as one: their mean probabilities, also where logits are extreme, frozen, saved and opened again."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from compress import models
from compress.data import Dataset, load_data
from compress.models.inference import for_inference
from compress.models.wrappers import Adapted, Ensemble
from compress.recipe import Data
from compress.system.errors import InputError
from tests.helpers.networks import relative_error, with_statistics
from tests.reference.ensemble_reference import mean_probabilities


class Fixed(nn.Module):
    """Logits that do not depend on the images."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        return self.logits


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_data(Data(name="digits"))


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(8, 3, 16, 16)


@pytest.fixture
def trio() -> Ensemble:
    """Three architectures with the statistics of training; the last expects another normalisation."""
    torch.manual_seed(0)
    small = timm.create_model("resnet10t_smallstem", num_classes=10, channels=[8, 8, 16, 16])
    mobile = timm.create_model("mobilenetv3_small_050", num_classes=10)
    other: Any = timm.create_model("resnet18", num_classes=10)
    other.pretrained_cfg = {**other.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}
    wrapped = Adapted(other, torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, -0.2, 0.3]))
    return Ensemble([with_statistics(one) for one in (small, mobile, wrapped)]).eval()


@pytest.mark.parametrize("scale", [1.0, 50.0, 1e4])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_its_softmax_is_the_mean_of_the_members_probabilities(scale: float, count: int) -> None:
    torch.manual_seed(0)
    logits = [scale * torch.randn(6, 7) for _ in range(count)]
    found = Ensemble(map(Fixed, logits))(torch.zeros(6, 3, 4, 4))
    expected = torch.tensor(mean_probabilities([member.tolist() for member in logits]), dtype=torch.float64)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(found.double().softmax(1), expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.double().exp().sum(1), torch.ones(6, dtype=torch.float64), rtol=1e-5, atol=0)


def test_half_precision_members_are_averaged_in_float32() -> None:
    torch.manual_seed(0)
    logits = [8 * torch.randn(6, 7).bfloat16() for _ in range(3)]
    found = Ensemble(map(Fixed, logits))(torch.zeros(6, 3, 4, 4))
    expected = torch.tensor(mean_probabilities([member.tolist() for member in logits]))
    torch.testing.assert_close(found.softmax(1), expected, rtol=1e-5, atol=1e-7)


def test_frozen_folds_inside_the_members(trio: Ensemble, images: Tensor) -> None:
    before = copy.deepcopy(trio.state_dict())
    cheap = for_inference(trio, images, precision=torch.float32)
    with torch.no_grad():
        expected = trio(images)
        centred = expected - expected.mean(dim=1, keepdim=True)
        assert relative_error(cheap(images), centred) < 3e-5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in cheap.modules())
    assert all(torch.equal(value, before[key]) for key, value in trio.state_dict().items())


def test_saved_and_loaded_it_has_the_same_logits_and_hash(
    trio: Ensemble, images: Tensor, digits: Dataset, tmp_path: Path
) -> None:
    sha256 = models.save_model(trio, tmp_path / "teacher", digits)
    opened = models.load_model(tmp_path / "teacher")
    assert not opened.training
    with torch.no_grad():
        assert torch.equal(opened(images), trio(images))
    fitted = models.as_teacher(opened, digits, "it")
    assert fitted is opened  # the images of this data need no other normalisation
    assert models.save_model(opened, tmp_path / "again", digits) == sha256
    assert (tuple(opened.pretrained_cfg["mean"]), tuple(opened.pretrained_cfg["std"])) == (digits.mean, digits.std)


def test_a_saved_one_is_refused_where_it_is_not_whole_or_has_other_classes(
    trio: Ensemble, digits: Dataset, tmp_path: Path
) -> None:
    models.save_model(trio, tmp_path / "teacher", digits)
    renamed = dataclasses.replace(digits, class_names=[f"class {name}" for name in digits.class_names])
    with pytest.raises(InputError, match="other classes"):
        models.as_teacher(models.load_model(tmp_path / "teacher"), renamed, "it")
    (tmp_path / "teacher" / "member-1" / "config.json").unlink()
    with pytest.raises(InputError, match="whole model"):
        models.load_model(tmp_path / "teacher")
