"""What the teacher costs: made cheap, kept on disk, or shared by several students. All contestants take turns.

- pass: a forward pass of the naive teacher (eval, no_grad, bf16 autocast) over that of the one that the loop uses.
- cached: a step with kept logits (teacher.cache) over a step of plain student training without any teacher.
- lockstep: five methods on one batch over one teacher pass plus the five students' own steps, timed alone.

    python tools/bench/teacher.py                     resnet34 -> resnet18, stock stem, 32 px, batch 64
    python tools/bench/teacher.py --stem small --precision fp32 --json
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from compress import models, recipe
from compress.data.augment import Images
from compress.distributed.world import Agreement
from compress.losses.objective import Means, Objective
from compress.system import console
from compress.system.interrupts import Flag
from compress.training.batches import Shared, batches_and_teacher
from compress.training.loop import finish, run_epoch
from compress.training.state import Training, prepare
from compress.training.teacher_cache import TeacherViews

METHODS = ("kd", "ka-ps", "dtd-flsw", "dtd-cwsm", "ka-ps+dtd-flsw")


class Bench:
    def __init__(self, teacher: str, student: str, stem: str, classes: int, size: int, batch: int, steps: int) -> None:
        self.names, self.stem, self.classes, self.size = (teacher, student), stem, classes, size
        self.batch, self.steps = batch, steps
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (steps * batch, size, size, 3), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, classes, (steps * batch,), generator=generator)
        half = torch.full((3,), 0.5)
        self.images = Images(pixels, labels, half, half / 2)
        self.teacher = self.model(recipe.Teacher(model=teacher, stem=stem)).eval()  # type: ignore[arg-type]

    def model(self, settings: recipe.Model) -> nn.Module:
        return models.create_model(settings, num_classes=self.classes, image_size=self.size)

    def training(self, method: str, precision: str, shared: Shared, views: TeacherViews | None = None) -> Training:
        settings = recipe.Train(batch_size=self.batch, precision=precision, epochs=1000)  # type: ignore[arg-type]
        objective = Objective.of(recipe.Supervision(method=method), label_smoothing=0.0)
        augment = recipe.Augment(crop=self.size // 8, flip=True)
        batches, _ = batches_and_teacher(
            self.images, self.teacher, objective, settings, augment, "student", views=views, shared=shared
        )
        student = self.model(recipe.Model(model=self.names[1], stem=self.stem))  # type: ignore[arg-type]
        return prepare(student, batches, objective, settings, 1000, "student")


def epoch(state: Training) -> None:
    finish(run_epoch(state, Agreement(Flag()), console.Bar(), lambda: None))
    state.epoch, state.step, state.means = state.epoch + 1, 0, Means()


def in_turns(states: list[Training]) -> None:
    """One epoch of all: a step of each, then the next step, as compress.sweeps.lockstep does it."""
    running = [run_epoch(state, Agreement(Flag()), console.Bar(), lambda: None) for state in states]
    for _ in range(states[0].batches.steps_per_epoch + 1):
        for steps in running:
            next(steps, None)
    for state in states:
        state.epoch, state.step, state.means = state.epoch + 1, 0, Means()


def race(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in each round, after one round that warms up; the order turns around every time."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):
        order = list(contestants.items())
        for name, work in order if number % 2 else reversed(order):
            began = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(above: list[float], below: list[float]) -> list[float]:
    """Median, smallest and largest over the rounds."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]


@click.command()
@click.option("--teacher", default="resnet34", show_default=True)
@click.option("--student", default="resnet18", show_default=True)
@click.option("--stem", type=click.Choice(["stock", "small"]), default="stock", show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels a side.")
@click.option("--batch", default=64, show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--steps", default=4, show_default=True, help="In each round.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "json_", is_flag=True)
def main(
    teacher: str,
    student: str,
    stem: str,
    classes: int,
    size: int,
    batch: int,
    precision: str,
    steps: int,
    rounds: int,
    json_: bool,
) -> None:
    bench = Bench(teacher, student, stem, classes, size, batch, steps)
    constant = bench.images.normalized(slice(0, batch))
    naive = bench.teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def naive_pass() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return naive(constant)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESS_CACHE"] = folder
        views = TeacherViews(count=1, samples=steps * batch, device=torch.device("cpu"), determined_by={})
        together = Shared()
        five = [bench.training(method, precision, together) for method in METHODS]
        ask = five[0].batches.teacher
        assert ask is not None
        plain, cached = (
            bench.training("ce", precision, Shared()),
            bench.training("kd", precision, Shared(), views),
        )
        # The five students' own steps: with logits that are there already, each alone.
        alone = [bench.training(method, precision, Shared(), views) for method in METHODS]
        seconds = race(
            {
                "naive": lambda: [naive_pass() for _ in range(steps)],
                "pass": lambda: [ask(constant) for _ in range(steps)],
                "plain": lambda: epoch(plain),
                "cached": lambda: epoch(cached),
                "lockstep": lambda: in_turns(five),
                "alone": lambda: [epoch(state) for state in alone],
            },
            rounds,
        )
    parts = [a + b for a, b in zip(seconds["pass"], seconds["alone"], strict=True)]
    result = {
        "naive_over_cheap_teacher": ratio(seconds["naive"], seconds["pass"]),
        "cached_over_plain_student": ratio(seconds["cached"], seconds["plain"]),
        "lockstep_over_its_parts": ratio(seconds["lockstep"], parts),
        "setting": f"{teacher} -> {student}, {stem} stem, {size} px, batch {batch}, {precision}",
        "device": f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    if json_:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<28}{value}")


if __name__ == "__main__":
    main()
