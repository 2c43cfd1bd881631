"""Is there a Knowledge Adjustment that loses nothing where labels are wrong? Adjusting fewer rows, tried on digits.

    python tools/study/mends.py --noise 0.4 --seeds 5

KA takes every row whose top class is not the label for wrong. Each mend takes fewer, by the teacher's probabilities at
temperature 1. They are no part of compress: they replace `wrong_rows` here. Out: top-1 on held-out training images of
scikit-learn's digits, whose labels are right, and differences to `kd`, paired by seed. All seeds share one teacher and
one draw of wrong labels. gradients.py shows why.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import click
import torch.nn.functional as F
from gradients import PLAUSIBLE, UNSURE
from scipy.stats import ttest_1samp
from torch import Tensor

from compress import distill
from compress.cli.main import run_command
from compress.losses import distillation
from compress.losses.labels import Mixed
from compress.losses.targets import wrong_rows
from compress.recipe import Recipe

Chosen = Callable[[Tensor, Tensor], Tensor]


def _every(teacher: Tensor, labels: Tensor) -> Tensor:
    return teacher.new_ones(len(labels)).bool()


def _plausible(least: float) -> Chosen:
    return lambda teacher, labels: F.softmax(teacher, dim=1).gather(1, labels.unsqueeze(1)).squeeze(1) >= least


def _unsure(teacher: Tensor, labels: Tensor) -> Tensor:
    return F.softmax(teacher, dim=1).amax(dim=1) < UNSURE


BASELINE = "`kd`"
ARMS: dict[str, tuple[dict[str, object], Chosen]] = {
    BASELINE: ({"method": "kd"}, _every),
    "`kd`, alpha 1": ({"method": "kd", "alpha": 1.0}, _every),
    "`ka-ps`": ({"method": "ka-ps"}, _every),
    f"`ka-ps` where the teacher gives the label {PLAUSIBLE:g} or more": ({"method": "ka-ps"}, _plausible(PLAUSIBLE)),
    "`ka-ps` where it gives the label 0.2 or more": ({"method": "ka-ps"}, _plausible(0.2)),
    f"`ka-ps` where its top class has less than {UNSURE:g}": ({"method": "ka-ps"}, _unsure),
}


@contextmanager
def adjusting_where(chosen: Chosen) -> Iterator[None]:
    """KA adjusts those of the wrong rows alone."""

    def fewer(teacher: Tensor, labels: Tensor, mixed: Mixed | None = None) -> Tensor:
        return wrong_rows(teacher, labels, mixed) & chosen(teacher, labels)

    distillation.wrong_rows = fewer
    try:
        yield
    finally:
        distillation.wrong_rows = wrong_rows


def recipe(supervision: dict[str, object], noise: float, seed: int) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"name": "digits", "image_size": 16, "holdout": 0.2, "label_noise": noise},
            "teacher": {"model": "resnet10t", "args": {"channels": [16, 16, 32, 32]}, "epochs": 12},
            "student": {"model": "resnet10t", "args": {"channels": [8, 8, 16, 16]}},
            "supervision": {"temperature": 2.0, **supervision},
            "train": {"epochs": 8, "batch_size": 64, "lr": 0.05, "precision": "fp32", "seed": seed},
        }
    )


def interval(differences: list[float]) -> str:
    """The mean in points with its 95 % interval, Student's t over paired seeds."""
    low, high = ttest_1samp(differences, 0).confidence_interval(0.95)
    return f"{100 * mean(differences):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


@click.command(help=__doc__)
@click.option("--noise", type=click.FloatRange(0, 1), default=0.4, show_default=True, help="Share of wrong labels.")
@click.option("--seeds", type=click.IntRange(2), default=5, show_default=True)
def main(noise: float, seeds: int) -> None:
    logging.getLogger("compress").setLevel(logging.WARNING)
    top1: dict[str, list[float]] = {name: [] for name in ARMS}
    teacher = 0.0
    with TemporaryDirectory() as folder:
        for seed in range(seeds):
            for number, (name, (supervision, chosen)) in enumerate(ARMS.items()):
                with adjusting_where(chosen):
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
