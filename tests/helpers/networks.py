"""Small networks for the tests of losses and training, and how two networks are compared."""

import torch
from torch import Tensor, nn


def network(seed: int, channels: int = 8, dropout: float = 0.0) -> nn.Sequential:
    """Takes images of 6 x 6 pixels, gives logits of 4 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(), nn.MaxPool2d(2),
        nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4),
    )  # fmt: skip


class Staged(nn.Module):
    """Takes images of any size, gives logits of 4 classes. It has stages and names its head, as timm's models do.

    Args:
        statistics: whether its norms are BatchNorms. Else they are GroupNorms, which look at one image alone.
    """

    def __init__(self, seed: int, *, channels: int = 8, classes: int = 4, statistics: bool = True) -> None:
        super().__init__()
        torch.manual_seed(seed)

        def stage(inputs: int) -> nn.Sequential:
            norm = nn.BatchNorm2d(channels) if statistics else nn.GroupNorm(2, channels)
            return nn.Sequential(nn.Conv2d(inputs, channels, 3, padding=1), norm, nn.ReLU())

        self.stem, self.layer1, self.layer2 = stage(3), stage(channels), stage(channels)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(channels, classes)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^stem", "blocks": r"^layer(\d+)"}

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.layer2(self.layer1(self.stem(images)))))


class Exact(Staged):
    """Computes in float64, and no image depends on another."""

    def __init__(self) -> None:
        super().__init__(1, statistics=False)
        self.double()

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.double())


def with_statistics(model: nn.Module) -> nn.Module:
    """BatchNorms as they are after training: none of their numbers is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def equal(one: nn.Module, other: nn.Module) -> bool:
    """The same parameters and buffers, bit for bit."""
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).abs().max() / expected.abs().max())
