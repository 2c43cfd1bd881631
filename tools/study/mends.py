"""Is there a Knowledge Adjustment that loses nothing where labels are wrong, or a T_0 that helps DTD? Tried on digits.

    python tools/study/mends.py --noise 0.4 --seeds 5

KA takes every row whose top class is not the label for wrong. Three mends take fewer, by the teacher's probabilities at
temperature 1, and one mixes what KA makes of a row with what it was. T_0 stays the same, 2; two mends move it from the
first step to the last, with DTD and without. They are no part of compress: they replace functions of its losses here.
Out: top-1 on held-out training images of scikit-learn's digits, whose labels are right, and differences to `kd`, paired
by seed. All seeds share one teacher and one draw of wrong labels. gradients.py shows why.
"""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
import torch.nn.functional as F
from gradients import PLAUSIBLE, UNSURE
from scipy.stats import ttest_1samp
from torch import Tensor

from compress import distill
from compress.cli.main import run_command
from compress.losses import distillation
from compress.losses.distillation import dynamic_temperature
from compress.losses.labels import Mixed
from compress.losses.targets import log_targets, wrong_rows
from compress.recipe import Recipe

Chosen = Callable[[Tensor, Tensor], Tensor]
Mend = Callable[[], AbstractContextManager[None]]

EPOCHS, BATCH = 8, 64
STEPS = EPOCHS * (1150 // BATCH)  # images to train on: four fifths of 1,438


@contextmanager
def _replaced(function: str, by: Callable[..., Tensor]) -> Iterator[None]:
    before = getattr(distillation, function)
    setattr(distillation, function, by)
    try:
        yield
    finally:
        setattr(distillation, function, before)


def adjusting_where(chosen: Chosen) -> AbstractContextManager[None]:
    """KA adjusts those of the wrong rows alone."""

    def fewer(teacher: Tensor, labels: Tensor, mixed: Mixed | None = None) -> Tensor:
        return wrong_rows(teacher, labels, mixed) & chosen(teacher, labels)

    return _replaced("wrong_rows", fewer)


def mixing() -> AbstractContextManager[None]:
    """The targets are the mean of the teacher's row and of what KA makes of it."""

    def half(teacher: Tensor, labels: Tensor, *, wrong: Tensor, **rest: Any) -> Tensor:
        own, adjusted = (log_targets(teacher, labels, wrong=rows, **rest) for rows in (wrong & False, wrong))
        return torch.logaddexp(own, adjusted) - math.log(2)  # finite where both probabilities underflow

    return _replaced("log_targets", half)


def moving_t0(first: float, last: float, steps: int) -> AbstractContextManager[None]:
    """T_0 goes from first to last in equal steps. The trial before a training takes two of them."""
    taken = count()

    def scheduled(student: Tensor, teacher: Tensor, *, base: float, **rest: Any) -> Tensor:
        del base
        done = min(1.0, next(taken) / (steps - 1))
        return dynamic_temperature(student, teacher, base=first + (last - first) * done, **rest)

    return _replaced("dynamic_temperature", scheduled)


def _plausible(least: float) -> Chosen:
    return lambda teacher, labels: F.softmax(teacher, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1) >= least


def _unsure(teacher: Tensor, labels: Tensor) -> Tensor:
    return F.softmax(teacher, dim=1).amax(dim=1) < UNSURE


BASELINE = "`kd`"
ARMS: dict[str, tuple[dict[str, object], Mend]] = {
    BASELINE: ({"method": "kd"}, nullcontext),
    "`kd`, alpha 1": ({"method": "kd", "alpha": 1.0}, nullcontext),
    "`ka-ps`": ({"method": "ka-ps"}, nullcontext),
    f"`ka-ps` where the teacher gives the label {PLAUSIBLE:g} or more": (
        {"method": "ka-ps"},
        partial(adjusting_where, _plausible(PLAUSIBLE)),
    ),
    "`ka-ps` where it gives the label 0.2 or more": ({"method": "ka-ps"}, partial(adjusting_where, _plausible(0.2))),
    f"`ka-ps` where its top class has less than {UNSURE:g}": ({"method": "ka-ps"}, partial(adjusting_where, _unsure)),
    "the mean of the rows of `kd` and `ka-ps`": ({"method": "ka-ps"}, mixing),
    "`kd`, T_0 from 3 to 1": ({"method": "kd"}, partial(moving_t0, 3.0, 1.0, STEPS)),
    "`kd`, T_0 from 1 to 3": ({"method": "kd"}, partial(moving_t0, 1.0, 3.0, STEPS)),
    "`kd`, T_0 3": ({"method": "kd", "temperature": 3.0}, nullcontext),
    "`dtd-flsw`": ({"method": "dtd-flsw"}, nullcontext),
    "`dtd-flsw`, T_0 from 3 to 1": ({"method": "dtd-flsw"}, partial(moving_t0, 3.0, 1.0, STEPS)),
    "`dtd-flsw`, T_0 from 1 to 3": ({"method": "dtd-flsw"}, partial(moving_t0, 1.0, 3.0, STEPS)),
    "`dtd-flsw`, T_0 3": ({"method": "dtd-flsw", "temperature": 3.0}, nullcontext),
}


def recipe(supervision: dict[str, object], noise: float, seed: int) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "holdout": 0.2, "label_noise": noise},
            "teacher": {"model": "resnet10t", "args": {"channels": [16, 16, 32, 32]}, "epochs": 12},
            "student": {"model": "resnet10t", "args": {"channels": [8, 8, 16, 16]}},
            "supervision": {"temperature": 2.0, **supervision},
            "train": {"epochs": EPOCHS, "batch_size": BATCH, "lr": 0.05, "precision": "fp32", "seed": seed},
        }
    )


def interval(differences: list[float]) -> str:
    """The mean in points with its 95 % interval, Student's t over paired seeds."""
    low, high = ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{100 * mean(differences):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


@click.command(help=__doc__)
@click.option(
    "--noise", type=click.FloatRange(0, 1, max_open=True), default=0.4, show_default=True, help="Share of wrong labels."
)
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True)
def main(noise: float, seeds: int) -> None:
    logging.getLogger("compress").setLevel(logging.WARNING)
    top1: dict[str, list[float]] = {name: [] for name in ARMS}
    teacher = 0.0
    with TemporaryDirectory() as folder:
        for seed in range(seeds):
            for number, (name, (supervision, mend)) in enumerate(ARMS.items()):
                with mend():
                    run = distill(recipe(supervision, noise, seed), out=Path(folder, f"{seed}-{number}"))
                top1[name].append(run.result.student_top1)
                teacher = run.result.teacher_top1
                click.echo(f"seed {seed}, {name}: {top1[name][-1]:.2%}", err=True)
    click.echo(f"| {seeds} seeds, teacher {teacher:.2%} | top-1 | against `kd`, points |\n|---|---:|---:|")
    for name, found in top1.items():
        against = [one - other for one, other in zip(found, top1[BASELINE], strict=True)]
        click.echo(f"| {name} | {mean(found):.2%} | {'–' if name == BASELINE else interval(against)} |")


if __name__ == "__main__":
    run_command(main, "mends.py")
