"""Kept logits of the teacher belong to all that they depend on: another run takes only those that are its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from compress import distill, load_recipe

Kept = Callable[..., int]


@pytest.fixture
def kept(here: Path, finished: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """How many sets of logits are kept after a run with these settings, all of the same teacher."""
    monkeypatch.setenv("COMPRESS_CACHE", str(here / "cache"))

    def run(name: str, *settings: str) -> int:
        teacher = f"source: checkpoint, checkpoint: {finished / 'teacher'}, cache: {{views: 1}}"
        own = [
            f"teacher={{model: resnet10t, args: {{channels: [8, 8, 16, 16]}}, {teacher}}}",
            "train.epochs=1",
            "train.precision=fp32",
            *settings,
        ]
        distill(load_recipe(tiny_recipe, method="kd", overrides=own), out=name)
        return len(list((here / "cache" / "teacher-logits").glob("*/")))

    return run


@pytest.mark.parametrize("setting", ["data.augment.flip=false", "train.seed=5", "train.precision=bf16"])
def test_other_pictures_have_other_logits(kept: Kept, setting: str) -> None:
    assert kept("one") == 1
    assert kept("two", "train.lr=0.02", "supervision.temperature=3") == 1  # what the teacher does not see
    assert kept("three", setting) == 2
    assert kept("four", setting) == 2
