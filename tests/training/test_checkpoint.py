"""Checkpoints: read back as written, the newest whole one of several, never with values that are not finite."""

from pathlib import Path

import pytest
import torch

from compress.system.errors import DivergedError, InputError
from compress.training.checkpoint import Checkpoint, newest_checkpoint, save_checkpoint
from tests.helpers.damage import empty, flip_a_bit, truncate


def checkpoint(epoch: int, step: int = 0) -> Checkpoint:
    return Checkpoint(
        {"model.weight": torch.full((3, 2), float(epoch)), "random.cpu": torch.arange(4, dtype=torch.uint8)},
        {"epoch": epoch, "step": step, "provenance": {"data": "x"}},
    )


def test_what_is_saved_is_read_back_and_only_the_newest_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epoch in range(1, 5):
        save_checkpoint(tmp_path, checkpoint(epoch), keep=2)
    assert len(list(tmp_path.iterdir())) == 4
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.meta == checkpoint(4).meta
    assert found.tensors.keys() == checkpoint(4).tensors.keys()
    assert all(torch.equal(found.tensors[key], value) for key, value in checkpoint(4).tensors.items())
    assert found.part("model").keys() == {"weight"}
    assert not caplog.records


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "absent") is None


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, empty, Path.unlink])
@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    tmp_path: Path, damage: object, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=3)
    damaged = save_checkpoint(tmp_path, checkpoint(2), keep=3).with_suffix(suffix)
    damage(damaged)  # type: ignore[operator]
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.meta["epoch"] == 1 or (suffix == ".json" and damage is flip_a_bit and found.meta["epoch"] == 2)
    # Without its marker a checkpoint never was, so there is nothing to warn of.
    assert bool(caplog.records) == (found.meta["epoch"] == 1 and not (suffix == ".json" and damage is Path.unlink))
    for path in tmp_path.iterdir():
        empty(path)
    with pytest.raises(InputError, match="none of the"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["model.weight", "terms.projections.fitnet.weight"])
def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, name: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    bad = checkpoint(2)
    bad.tensors[name] = torch.tensor([1.0, float("inf")])
    with pytest.raises(DivergedError):
        save_checkpoint(tmp_path, bad, keep=2)
    found = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.meta["epoch"] == 1
