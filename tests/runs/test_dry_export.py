"""A student that cannot be exported is said before hours are spent on it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress import load_recipe
from compress.data import load_data
from compress.runs.trial import warn_if_not_exportable


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 3)

    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.flatten(1))


class Decides(Plain):
    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.flatten(1) if images.sum() > 0 else -images.flatten(1))


class OfTwo(Plain):
    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(images.view(2, 192))


class Inverts(Plain):
    """By an operator that torch.export takes and ONNX does not have."""

    def forward(self, images: torch.Tensor) -> Any:
        return self.fc(torch.linalg.inv(images + 100 * torch.eye(8)).flatten(1))


class Attends(Plain):
    """By torch's fused attention, as some of timm's models do over five axes, where they may also write it out."""

    fused_attn = True

    def forward(self, images: torch.Tensor) -> Any:
        five = images[:, None]
        if self.fused_attn:
            five = nn.functional.scaled_dot_product_attention(five, five, five)
        return self.fc(five.flatten(1))


@pytest.mark.parametrize(
    ("module", "warned"), [(Decides, True), (OfTwo, True), (Inverts, True), (Attends, False), (Plain, False)]
)
def test_a_student_that_cannot_be_exported_is_said_beforehand(
    tiny_recipe: Path, caplog: pytest.LogCaptureFixture, module: type[nn.Module], warned: bool
) -> None:
    warn_if_not_exportable(module(), load_data(load_recipe(tiny_recipe).data), to_onnx=True)
    assert bool([one for one in caplog.records if "cannot be exported" in one.message]) == warned
