"""Frozen layers and batches in parts, in two real processes: the weights and metrics of one, and the same bits after a
signal.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.system.errors import Interrupted
from tests.helpers.networks import Staged, equal
from tests.helpers.terms import STAGED_HINT, STAGED_TERMS
from tests.helpers.training import repeatable_metrics, run, stop_after
from tests.helpers.two_processes import in_two_processes

pytestmark = pytest.mark.slow

FROZEN = {"freeze": "stem", "freeze_epochs": 1.4, "head_lr": 0.05, "terms": [STAGED_HINT]}
TRAININGS: dict[str, dict[str, Any]] = {
    "frozen": {"method": "ka+dtd", "layer_decay": 0.7, **FROZEN},
    "frozen, adamw": {"method": "kd", "optimizer": "adamw", "ema": 0.9, "clip_grad": 1.0, **FROZEN},
    "parts": {"method": "kd", "grad_accumulation": 2},
    "parts and terms": {"method": "ka+dtd", "grad_accumulation": 3, "terms": STAGED_TERMS},
    "frozen, parts": {"method": "dtd-flsw", "optimizer": "lion", "grad_accumulation": 2, **FROZEN, "head_lr": 1e-4},
}


def training(folder: Path, *, terms: Any = (), **options: Any) -> dict[str, Tensor]:
    fixed = {"precision": "fp32", "lr": 1e-3 if "optimizer" in options else 0.02, **options}
    return run(folder, terms, model=Staged(1, statistics=False), **fixed).state_dict()


def every_training(folder: Path) -> dict[str, dict[str, Tensor]]:
    return {name: training(folder / name, **options) for name, options in TRAININGS.items()}


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    folder = tmp_path_factory.mktemp("two")
    return folder, in_two_processes(every_training, folder)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_end_at_the_weights_and_metrics_of_one(
    in_two: tuple[Path, list[Any]], tmp_path: Path, name: str
) -> None:
    folder, found = in_two
    expected = training(tmp_path / "one", **TRAININGS[name])
    tolerance = 5e-4 if name == "frozen, parts" else 2e-5  # lion's step is a sign
    for key, value in expected.items():
        assert torch.equal(found[0][name][key], found[1][name][key]), key
        torch.testing.assert_close(found[0][name][key], value, atol=tolerance, rtol=1e-3)
    for one, two in zip(repeatable_metrics(tmp_path / "one"), repeatable_metrics(folder / name), strict=True):
        assert one.pop("phase") == two.pop("phase")
        assert two == pytest.approx(one, rel=2e-3, abs=1e-4)


def whole_and_stopped(folder: Path) -> bool:
    """Whether a training that SIGTERM stops, in the epochs of the head and after them, ends at the same bits."""
    whole, resumed = folder / "whole", folder / "resumed"
    options = TRAININGS["frozen"] | {"grad_accumulation": 1}

    def with_statistics(place: Path) -> nn.Module:
        return run(place, [STAGED_HINT], model=Staged(1), **{k: v for k, v in options.items() if k != "terms"})

    expected = with_statistics(whole)
    for step in (2, 4):
        with pytest.MonkeyPatch.context() as patch:
            stop_after(patch, step, rank=1)
            with pytest.raises(Interrupted):
                with_statistics(resumed)
    return equal(expected, with_statistics(resumed))


def test_two_processes_resume_to_the_same_bits(tmp_path: Path) -> None:
    assert in_two_processes(whole_and_stopped, tmp_path) == [True, True]
