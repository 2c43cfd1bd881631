"""The cheap teacher gives the logits of the whole one, which stays as it was."""

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from compress.models.inference import for_inference
from tests.helpers.networks import relative_error, with_statistics


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("resnet18_smallstem", 0),
        ("mobilenetv3_small_050", 0),  # its BatchNorms hold activations
        ("repvit_m0_9", 0),  # its branches are merged
        ("resnetv2_18", 9),  # BatchNorms that no convolution goes before stay
        ("convnext_atto", 0),
    ],
)
def test_logits_are_those_of_the_whole_teacher(name: str, left: int, images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = with_statistics(timm.create_model(name, num_classes=10)).train()
    before = copy.deepcopy(teacher.state_dict())
    cheap = for_inference(teacher, images, precision=torch.float32)
    assert teacher.training
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    with torch.no_grad():
        expected = copy.deepcopy(teacher).eval()(images)
        assert relative_error(cheap(images), expected) < 3e-5
    assert sum(isinstance(module, nn.BatchNorm2d) for module in cheap.modules()) == left
    assert not any(parameter.requires_grad for parameter in cheap.parameters())
    assert not any(module.training for module in cheap.modules())


def test_in_bfloat16_it_is_as_exact_as_autocast(images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = with_statistics(timm.create_model("resnet18", num_classes=10)).eval()
    cheap = for_inference(teacher, images, precision=torch.bfloat16)
    with torch.no_grad():
        expected = teacher(images)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = relative_error(teacher(images), expected)
        assert relative_error(cheap(images.bfloat16()), expected) < 2 * autocast


class Residual(nn.Module):
    """The convolution's output also goes around the BatchNorm: folding one into the other would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((self.norm(x) + x).mean((2, 3)))


class Twice(nn.Module):
    """One BatchNorm after two convolutions, and one convolution used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm, self.head = (
            *(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)),
            *(nn.BatchNorm2d(4), nn.Linear(4, 10)),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.second(self.norm(self.first(x))))
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.parametrize("kind", [Residual, Twice])
def test_what_cannot_be_folded_stays_whole(kind: type[nn.Module], images: Tensor) -> None:
    torch.manual_seed(0)
    teacher = with_statistics(kind()).eval()
    cheap = for_inference(teacher, images, precision=torch.float32)
    with torch.no_grad():
        assert relative_error(cheap(images), teacher(images)) < 3e-5
    assert sum(isinstance(module, nn.BatchNorm2d) for module in cheap.modules()) == 1
