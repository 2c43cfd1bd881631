"""A student that cannot be exported is said before hours are spent on it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.recipe import Student
from compress.runs import dry_export
from compress.runs.dry_export import warn_if_not_exportable


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
    caplog: pytest.LogCaptureFixture, module: type[nn.Module], warned: bool
) -> None:
    warn_if_not_exportable(module(), 8, None)
    assert bool([one for one in caplog.records if "cannot be exported" in one.message]) == warned


def test_a_model_of_timm_that_can_be_exported_is_traced_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    entry = Student(model="resnet10t")
    warn_if_not_exportable(Plain(), 8, entry)
    monkeypatch.setattr(dry_export, "_export_error", lambda *args, **kwargs: "traced again")
    warn_if_not_exportable(Plain(), 8, entry)
    assert "cannot be exported" not in caplog.text
    other = Student(model="resnet10t", args={"channels": [8, 8, 8, 8]})
    for changed, size in ((other, 8), (entry, 9), (Student(model="resnet14t"), 8)):
        caplog.clear()
        warn_if_not_exportable(Plain(), size, changed)
        assert "traced again" in caplog.text


def test_what_failed_once_is_traced_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Memory may have been short."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    for module, warned in ((Decides, True), (Plain, False)):
        caplog.clear()
        warn_if_not_exportable(module(), 8, Student(model="resnet10t"))
        assert ("cannot be exported" in caplog.text) == warned


def test_a_damaged_finding_or_a_cache_that_cannot_be_written_is_traced(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    warn_if_not_exportable(Plain(), 8, Student(model="resnet10t"))
    (found,) = tmp_path.glob("exportable/*.json")
    for damaged in ("", "[]", '{"exports": 3}'):
        found.write_text(damaged)
        caplog.clear()
        warn_if_not_exportable(Decides(), 8, Student(model="resnet10t"))
        assert "cannot be exported" in caplog.text
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("COMPRESS_CACHE", str(blocked))
    caplog.clear()
    warn_if_not_exportable(Decides(), 8, Student(model="resnet10t"))
    assert "cannot be exported" in caplog.text
