"""The work that the benchmarks of the loop time: a pair of models, noise as images, and the real training of a student.

In: options of the command line. Out: a Training as `compress distill` makes it, and epochs of it.
"""

import functools
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from typing import Any

import click
import torch
from torch import nn

from compress import models, recipe
from compress.data.augment import Images
from compress.data.stream import StreamedImages
from compress.distributed.agreement import Agreement
from compress.losses.objective import Means, Objective
from compress.system import console
from compress.system.interrupts import Flag
from compress.training.batches import batches_and_teacher
from compress.training.loop import Position, finish, run_epoch
from compress.training.memo import Memo
from compress.training.state import Training, prepare
from compress.training.teacher_cache import TeacherViews


@dataclass(frozen=True)
class Workload:
    """size: pixels a side. batch: images of all processes together. steps: in each round."""

    teacher: str
    student: str
    stem: str
    classes: int
    size: int
    batch: int
    precision: str
    steps: int
    method: str | None = None

    @property
    def images_a_round(self) -> int:
        return self.steps * self.batch

    def as_recipe(self, method: str | None = None, **train: object) -> recipe.Recipe:
        """method: another one than the workload's. train: further keys of the recipe's `train`."""
        return recipe.validate_recipe(
            {
                "data": {"name": "cifar100"},
                "teacher": {"model": self.teacher, "stem": self.stem},
                "student": {"model": self.student, "stem": self.stem},
                "supervision": {"method": method or self.method or "kd"},
                "train": {"batch_size": self.batch, "precision": self.precision, **train},
            }
        )

    def model(self, settings: recipe.Model) -> nn.Module:
        """With random weights, on which its speed does not depend."""
        return models.create_model(settings, num_classes=self.classes, image_size=self.size)

    def images(self, device: torch.device) -> Images:
        """Noise on `device`: the images of one round, uint8 [N, size, size, 3]."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.images_a_round, self.size, self.size, 3)
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, self.classes, shape[:1], generator=generator)
        half = torch.full((3,), 0.5, device=device)
        return Images(pixels.to(device), labels.to(device), half, half / 2)

    def __str__(self) -> str:
        pair = f"{self.teacher} -> {self.student}, {self.stem} stem"
        method = "" if self.method is None else f", {self.method}"
        return f"{pair}, {self.size} px, batch {self.batch}, {self.precision}{method}"


def workload_options(*, method: str | None, **defaults: object) -> Callable[[Any], Any]:
    """The options of a Workload, which a command gets as its argument `workload`. method None: there is no --method."""
    values: dict[str, Any] = {"batch": 64, "precision": "bf16", "steps": 8, **defaults}
    at_least_one = click.IntRange(1)
    shown: dict[str, Any] = {"show_default": True}
    options = [
        click.option("--teacher", default="resnet34", **shown),
        click.option("--student", default="resnet18", **shown),
        click.option("--stem", type=click.Choice(["stock", "small"]), default="stock", **shown),
        click.option("--classes", type=click.IntRange(2), default=100, **shown),
        click.option("--size", type=click.IntRange(8), default=32, **shown, help="Pixels a side."),
        click.option("--batch", type=at_least_one, default=values["batch"], **shown, help="Of all processes together."),
        click.option("--precision", type=click.Choice(["bf16", "fp32"]), default=values["precision"], **shown),
        click.option("--steps", type=at_least_one, default=values["steps"], **shown, help="In each round."),
    ]
    if method is not None:
        options.append(click.option("--method", default=method, **shown))

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def gathered(**given: Any) -> None:
            own = {field.name: given.pop(field.name) for field in fields(Workload) if field.name in given}
            command(workload=Workload(**own), **given)

        return functools.reduce(lambda function, option: option(function), reversed(options), gathered)

    return decorate


def training(
    settings: recipe.Recipe,
    images: Images | StreamedImages,
    teacher: nn.Module,
    student: nn.Module,
    augment: recipe.Augment | None = None,
    *,
    views: TeacherViews | None = None,
    memo: Memo | None = None,
) -> Training:
    """The training of a student, as `compress distill` prepares it.

    Args:
        settings: Its supervision and train count here.
        images: Of which the batches are drawn.
        teacher: The whole one, from which the training makes a cheap one.
        student: With random weights.
        augment: Default: crops with a margin of an eighth, and flips.
        views: Keeps the teacher's logits.
        memo: Of trainings that have batches and the teacher's passes in common.
    """
    objective = Objective.of(settings.supervision, label_smoothing=0.0)
    margin = images.image_size // 8
    batches, cheap = batches_and_teacher(
        images,
        teacher,
        objective,
        settings.train,
        augment or recipe.Augment(crop=margin, flip=True),
        "student",
        views=views,
        memo=memo or Memo(),
    )
    return prepare(student, batches, objective, settings.training, settings.training.epochs, "student", teacher=cheap)


def steps_of_an_epoch(state: Training) -> Generator[Position, None, None]:
    """compress.training.loop.run_epoch, which stops before every step."""
    return run_epoch(state, Agreement(Flag(), state.world), console.Bar(), lambda: None)


def run_whole_epoch(state: Training) -> None:
    """Raises DivergedError where a loss or gradient was not finite."""
    finish(steps_of_an_epoch(state))
    state.watch.raise_if_diverged(state.phase, state.epoch)
    next_epoch(state)


def next_epoch(state: Training) -> None:
    state.epoch, state.step, state.means = state.epoch + 1, 0, Means()
