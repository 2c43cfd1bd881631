"""Classifiers and images for the export tests: timm models with sane random weights, and a small trained one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_digits
from torch import nn

import compress.models.small_stem  # noqa: F401  (registers resnet18_smallstem)
from compress.data.decode import Square
from tests.helpers.originals import PixelOriginals

MEAN, STD = [0.4, 0.45, 0.5], [0.25, 0.3, 0.28]
SIZE = 32
ARCHITECTURES: dict[str, dict] = {
    "resnet18": {},
    "resnet18_smallstem": {},
    "resnet34": {},
    "mobilenetv3_small_100": {},
    "efficientnet_b0": {},
    "convnext_atto": {},
    "vit_tiny_patch16_224": {"img_size": SIZE, "patch_size": 8},
    "repvit_m0_9": {},
    "mobileone_s0": {},
}
QUICK = ("resnet18", "convnext_atto", "mobileone_s0")
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in ARCHITECTURES]


def digits(size: int) -> tuple[np.ndarray, np.ndarray]:
    """1797 real handwritten digits as tinted uint8 RGB [N, size, size, 3] by nearest neighbour, and their labels."""
    bunch = load_digits()
    grey = np.repeat(np.repeat(bunch.images, size // 8, axis=1), size // 8, axis=2) * (255 / 16)
    tint = np.random.default_rng(0).uniform(0.5, 1.0, (len(grey), 1, 1, 3))
    return (grey[..., None] * tint).astype(np.uint8), bunch.target.astype(np.int64)


def normalised(images: np.ndarray) -> np.ndarray:
    """By torchvision's definition, written out again for the tests."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    x = (x - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    return x.float().contiguous().numpy()


def random_model(name: str, seed: int = 0) -> nn.Module:
    """Random weights with the statistics of real images in its BatchNorms, and logits of unit spread on such images."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10, **ARCHITECTURES[name])
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        # timm starts the last BatchNorm of a block at 0, which would leave whole branches untested.
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = None  # a cumulative average, complete after one pass
    inputs = torch.from_numpy(normalised(digits(SIZE)[0][:128]))
    with torch.no_grad():
        model.train()(inputs)
        classifier = model.get_classifier()
        spread = model.eval()(inputs).std(dim=0).mean()
        for parameter in classifier.parameters():
            parameter /= spread
    return model


@dataclass(frozen=True)
class Digits:
    """The fields of a Dataset that an export reads."""

    train_images: np.ndarray
    train_labels: np.ndarray
    eval_images: np.ndarray
    eval_labels: np.ndarray
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    sha256: str = "of the digits"
    interpolation: str = "bicubic"
    crop_pct: float = 1.0
    fit: str = "crop"

    def train_as_evaluated(self, rows: np.ndarray) -> np.ndarray:
        return self.train_images[rows]

    @property
    def square(self) -> Square:
        return Square(self.eval_images.shape[1])

    @property
    def originals(self) -> PixelOriginals:
        return PixelOriginals(self.eval_images)


def digits_split() -> Digits:
    images, labels = digits(16)
    return Digits(
        images[:1297], labels[:1297], images[1297:], labels[1297:], [f"digit {n}" for n in range(10)], MEAN, STD
    )


def small_net(width: int = 16) -> nn.Sequential:
    def block(cin: int, cout: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout), nn.ReLU()]

    layers = [*block(3, width, 1), *block(width, width, 2), *block(width, width, 1), *block(width, 2 * width, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))


def _convolution(cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1) -> nn.Sequential:
    padding = 1 if kernel == 3 else 0
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding, bias=False), nn.BatchNorm2d(cout))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which is convolved where it must become wider."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.first, self.second = _convolution(cin, cout, 3, stride), _convolution(cout, cout, 3)
        self.shortcut = _convolution(cin, cout, 1, stride) if cin != cout else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


def residual_net() -> nn.Sequential:
    """A shortcut from a pool, one from a sum, one that is convolved, and layers of few channels."""
    stem = [_convolution(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2)]
    blocks = [_Residual(16, 16, 1), _Residual(16, 16, 1), _Residual(16, 32, 2)]
    narrow = [_convolution(32, 12, 1), nn.ReLU(), _convolution(12, 32, (1, 3)), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, *narrow, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Overflowing(nn.Module):
    """Its logits are those of a net that reads digits; in between its values go far beyond what FP16 holds.

    Args:
        inner: what reads digits, a Sequential that begins with convolution, norm and ReLU.
        factor: by which the values after the first convolution are enlarged.
    """

    def __init__(self, inner: nn.Sequential, factor: float) -> None:
        super().__init__()
        self.front, self.rest = inner[:3], inner[3:]
        self.factors = [min(factor, 1e3), max(1.0, factor / 1e3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.front(x)
        for factor in self.factors:  # each is a number that FP16 holds
            x = x * factor
        for factor in self.factors:
            x = x / factor
        return self.rest(x)


def trained_net(data: Digits, make: Callable[[], nn.Sequential] = small_net) -> nn.Module:
    """A small convolutional net that reads digits well: about 95 % after a few seconds."""
    torch.manual_seed(0)
    model = make()
    inputs = torch.from_numpy(normalised(data.train_images))
    labels = torch.from_numpy(data.train_labels)
    epochs, batch = 12, 64
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * (len(inputs) // batch))
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for start in range(0, len(inputs) - batch + 1, batch):
            chosen = order[start : start + batch]
            loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def float_logits(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model(torch.from_numpy(normalised(images))).numpy()


def signal_to_noise_db(expected: np.ndarray, actual: np.ndarray) -> float:
    """Of the part of the logits that tells images apart; 20 dB is an error of a tenth of their spread."""
    signal = ((expected - expected.mean(0)) ** 2).sum()
    return float(10 * np.log10(signal / ((actual - expected) ** 2).sum()))


def torch_macs(model: nn.Module, size: int) -> dict[str, int]:
    """Multiply-adds of one image in each convolution and linear layer, from all that it gives out in torch."""
    counts: dict[str, int] = {}

    def count(name: str) -> Callable:
        def hook(module: nn.Module, _: object, output: torch.Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                per_output = module.in_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
            else:
                per_output = module.in_features  # type: ignore
            counts[name] = output.numel() * per_output

        return hook

    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(count(name)) for name, module in layers]
    with torch.inference_mode():
        model(torch.zeros(1, 3, size, size))
    for hook in hooks:
        hook.remove()
    return counts


@dataclass(frozen=True)
class Exported:
    model: nn.Module
    path: Path
    images: np.ndarray
