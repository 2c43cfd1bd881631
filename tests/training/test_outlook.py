"""What is said before a training and while it runs: sizes are those of the files, batch sizes are tried."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.system.errors import EXIT_ENVIRONMENT, MachineError
from compress.training.outlook import epoch_line
from tests.helpers.training import run


def wide() -> nn.Module:
    """1.1 M parameters."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 6, 10_000), nn.ReLU(), nn.Linear(10_000, 4))


def said(caplog: pytest.LogCaptureFixture) -> str:
    return next(record.getMessage() for record in caplog.records if "of checkpoints" in record.getMessage())


@pytest.mark.parametrize(
    ("length", "options"),
    [
        ("1 epoch", {"epochs": 1, "momentum": 0.9, "keep_checkpoints": 1}),
        ("4 epochs", {"epochs": 4, "optimizer": "adamw", "lr": 0.001, "keep_checkpoints": 2}),
        ("4 epochs", {"epochs": 4, "ema": 0.9, "keep_checkpoints": 3}),
    ],
)
def test_the_checkpoints_take_the_space_that_was_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, length: str, options: dict[str, Any]
) -> None:
    with caplog.at_level(logging.INFO):
        run(tmp_path, method="ce", model=wide(), **options)
    line = said(caplog)
    assert line.startswith(f"student: 1.1 M parameters, {length} of 3 steps of 16 images; about ")
    found = re.search(r" and ([\d,]+) MB of checkpoints$", line)
    assert found
    taken = sum(path.stat().st_size for path in (tmp_path / "checkpoints").iterdir()) / 1e6
    assert float(found[1]) == pytest.approx(taken, rel=0.05)


def test_the_time_is_that_of_the_steps_that_are_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.training.outlook._seconds_per_step", lambda state, images: 600.0 * (images == 16))
    with caplog.at_level(logging.INFO):
        run(tmp_path, method="ce", epochs=2)
        assert "about 60 min and " in said(caplog)  # 6 steps of 10 minutes
        caplog.clear()
        run(tmp_path, method="ce", epochs=3)
    assert "images, going on from epoch 3, step 0; about 30 min and " in said(caplog)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(tmp_path, method="ce", epochs=3)
    assert "about" not in said(caplog)


def test_the_line_of_an_epoch() -> None:
    line = {"phase": "student", "epoch": 1, "loss": 0.5, "eval_top1": 0.25, "images_per_s": 1234.6}
    assert epoch_line(line, 9, remaining=0.0).startswith("student 2/9  loss 0.500  top1 25.00%  1,235 images/s  ")
    more = {**line, "temperature_min": 1.0, "temperature_max": 12.25, "adjusted": 0.125}
    assert "top1 25.00%  T 1.0-12.2  adjusted 12.5%  1,235" in epoch_line(more, 9, remaining=0.0)


class Hungry(nn.Module):
    """Has no memory for more images than so many."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.layer, self.most = nn.Linear(3 * 6 * 6, 4), most

    def forward(self, images: Tensor) -> Tensor:
        if self.training and len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(images.flatten(1))


@pytest.mark.parametrize(
    ("most", "parts", "hint"),
    [
        (4, 1, "train.batch_size=4 fits, or train.grad_accumulation=4 keeps the batch"),
        (5, 1, "train.batch_size=4 fits, or train.grad_accumulation=4 keeps the batch"),
        (2, 1, "train.batch_size=2 fits, or train.grad_accumulation=8 keeps the batch"),
        (2, 2, "train.batch_size=4 fits, or train.grad_accumulation=8 keeps the batch"),
        (0, 1, "No smaller batch fits: choose a smaller model"),
    ],
)
def test_a_batch_size_that_was_tried_is_named(tmp_path: Path, most: int, parts: int, hint: str) -> None:
    with pytest.raises(MachineError) as caught:
        run(tmp_path, method="ce", model=Hungry(most), grad_accumulation=parts)
    assert caught.value.code == EXIT_ENVIRONMENT
    assert "student training ran out of memory at epoch 1, step 1, with batches of 16 images" in caught.value.message
    assert caught.value.hint == f"{hint}; or free memory and go on with --resume."
