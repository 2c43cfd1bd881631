"""The learning rate of every step, and the moving average of the weights, as numbers by their formulas."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import recipe
from compress.system.errors import Interrupted
from compress.training import train
from compress.training.metrics import read_metrics
from tests.helpers.networks import network
from tests.helpers.training import by_labels, newest, run, splits, stop_after

LR, FIRST, EPOCHS, STEPS = 0.05, 1e-5, 6, 3
"""timm warms up from 1e-5. 50 images in batches of 16 make 3 steps an epoch."""


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rate of each step of torch's SGD."""
    seen: list[float] = []
    step = torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *args: Any) -> Any:
        seen.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    return seen


def constant(t: float) -> float:
    return LR


def cosine(t: float) -> float:
    return LR * (1 + math.cos(math.pi * t / (EPOCHS * STEPS))) / 2


def by_steps(t: float) -> float:
    return LR * 0.3 ** (t // (1.5 * STEPS))


@pytest.mark.parametrize(
    ("options", "formula", "warmup"),
    [
        ({"schedule": "constant"}, constant, 0),
        ({"schedule": "cosine", "warmup_epochs": 0.0}, cosine, 0),
        ({"schedule": "cosine", "warmup_epochs": 2.0}, cosine, 2 * STEPS),
        ({"schedule": "step", "step_epochs": 1.5, "step_rate": 0.3, "warmup_epochs": 1.0}, by_steps, STEPS),
    ],
)
def test_the_rate_of_every_step_is_that_of_the_formula(
    tmp_path: Path, rates: list[float], options: dict[str, Any], formula: Callable[[float], float], warmup: int
) -> None:
    run(tmp_path, method="ce", epochs=EPOCHS, lr=LR, **options)
    expected = [FIRST + (LR - FIRST) * t / warmup if t < warmup else formula(t) for t in range(EPOCHS * STEPS + 1)]
    assert rates == pytest.approx(expected[:-1])
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["lr"] for line in lines] == pytest.approx(expected[STEPS::STEPS])


def test_a_small_rate_is_warmed_up_from_below(tmp_path: Path, rates: list[float]) -> None:
    run(tmp_path, method="ce", epochs=EPOCHS, lr=1e-6, schedule="cosine", warmup_epochs=2.0)
    assert rates[: 2 * STEPS] == sorted(rates[: 2 * STEPS])
    assert rates[0] < max(rates) <= 1e-6


def test_a_resumed_training_goes_on_with_the_rates(
    tmp_path: Path, rates: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        with pytest.raises(Interrupted):
            run(tmp_path, method="ce", epochs=EPOCHS, lr=LR, warmup_epochs=0.0)
    run(tmp_path, method="ce", epochs=EPOCHS, lr=LR, warmup_epochs=0.0)
    assert rates == pytest.approx([cosine(t) for t in range(EPOCHS * STEPS)])


def test_the_moving_average_is_that_of_all_weights_and_statistics_and_is_what_comes_out(tmp_path: Path) -> None:
    """Weights w of steps 1, 2, ...: a = d a + (1 - d) w. d is 0 at first, then 1 - (1 + t)^(-2/3), at most 0.6."""
    model = network(1)
    settings = recipe.TrainSettings.model_validate({"epochs": 2, "batch_size": 16, "lr": 0.2, "ema": 0.6})
    job = by_labels(tmp_path, settings)
    steps, weights = train(model, job, splits()), []
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result = end.value
            break
        weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
    weights.append(model.state_dict())
    average = weights[1]
    for t, after in enumerate(weights[2:], start=1):
        share = min(0.6, 1 - (1 + t) ** (-2 / 3))
        average = {name: share * average[name] + (1 - share) * value for name, value in after.items()}
    assert len(weights) == 7
    for name, value in result.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, average[name], rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(value, weights[-1][name])
    assert not torch.allclose(result.state_dict()["1.running_mean"], model.state_dict()["1.running_mean"])
    kept = newest(tmp_path)
    for name, value in result.state_dict().items():
        assert torch.equal(kept[f"ema.{name}"], value)
        assert torch.equal(kept[f"model.{name}"], model.state_dict()[name])
