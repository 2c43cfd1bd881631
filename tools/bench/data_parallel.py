"""How much faster several processes of one thread train than one such process, at the same global batch.

Both are the real loop (run_epoch of compress.training.loop), in turns: the first process trains alone, then
all train together. Medians over rounds; the efficiency is the speed-up over the number of processes.

    torchrun --nproc-per-node=2 tools/bench/parallel.py       resnet34 -> resnet18, stock, 32 px, batch 128, fp32, kd
    torchrun --nproc-per-node=2 tools/bench/parallel.py --method ka+dtd --batch 64 --json
"""

import json
import statistics
import time

import click
import torch

from compress import models, recipe
from compress.data.augment import Images
from compress.distributed import launch
from compress.distributed.world import Agreement, joined
from compress.losses.objective import Means, Objective
from compress.system import console
from compress.system.interrupts import Flag
from compress.training.batches import Shared, batches_and_teacher
from compress.training.loop import finish, run_epoch
from compress.training.state import Training, prepare


def training(checked: recipe.Recipe, images: Images, size: int, classes: int) -> Training:
    objective = Objective.of(checked.supervision, label_smoothing=0.0)
    teacher = models.create_model(checked.teacher, num_classes=classes, image_size=size)
    augment = recipe.Augment(crop=size // 8, flip=True)
    batches, cheap = batches_and_teacher(
        images, teacher, objective, checked.train, augment, "student", views=None, shared=Shared()
    )
    student = models.create_model(checked.student, num_classes=classes, image_size=size)
    return prepare(student, batches, objective, checked.train, checked.train.epochs, "student", teacher=cheap)


def seconds_of_an_epoch(state: Training) -> float:
    state.step, state.means = 0, Means()
    state.world.from_leader(lambda: None)
    began = time.perf_counter()
    finish(run_epoch(state, Agreement(Flag(), state.world), console.Bar(), lambda: None))
    state.world.from_leader(lambda: None)
    state.epoch += 1
    return time.perf_counter() - began


@click.command()
@click.option("--teacher", default="resnet34", show_default=True)
@click.option("--student", default="resnet18", show_default=True)
@click.option("--stem", type=click.Choice(["stock", "small"]), default="stock", show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels a side.")
@click.option("--batch", default=128, show_default=True, help="Of all processes together.")
@click.option("--method", default="kd", show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="fp32", show_default=True)
@click.option("--steps", default=4, show_default=True, help="In each round, alone and together.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--json", "json_", is_flag=True)
def main(
    teacher: str,
    student: str,
    stem: str,
    classes: int,
    size: int,
    batch: int,
    method: str,
    precision: str,
    steps: int,
    rounds: int,
    json_: bool,
) -> None:
    if launch.size() == 1:
        raise click.UsageError("start it with torchrun --nproc-per-node=2")
    torch.set_num_threads(1)
    checked = recipe.validate_recipe(
        {
            "data": {"name": "cifar100"},
            "teacher": {"model": teacher, "stem": stem},
            "student": {"model": student, "stem": stem},
            "supervision": {"method": method},
            "train": {"batch_size": batch, "precision": precision},
        }
    )
    count = steps * batch
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    half = torch.full((3,), 0.5)
    images = Images(pixels, torch.randint(0, classes, (count,), generator=generator), half, half / 2)
    alone = training(checked, images, size, classes)  # outside of the group, so that it knows of no other process
    seconds: dict[str, list[float]] = {"alone": [], "together": []}
    with joined(torch.device("cpu")) as world:
        together = training(checked, images, size, classes)
        for number in range(rounds + 1):  # the first warms up
            for name in ("alone", "together") if number % 2 else ("together", "alone"):
                if name == "together":
                    took = seconds_of_an_epoch(together)
                else:
                    took = world.from_leader(lambda: seconds_of_an_epoch(alone))
                if number:
                    seconds[name].append(took)
    if not launch.leads():
        return
    speedups = [a / t for a, t in zip(seconds["alone"], seconds["together"], strict=True)]
    result = {
        "alone_images_per_s": round(count / statistics.median(seconds["alone"]), 1),
        "together_images_per_s": round(count / statistics.median(seconds["together"]), 1),
        "processes": launch.size(),
        "speedup": round(statistics.median(speedups), 3),
        "efficiency": round(statistics.median(speedups) / launch.size(), 4),
        "efficiency_min": round(min(speedups) / launch.size(), 4),
        "efficiency_max": round(max(speedups) / launch.size(), 4),
        "setting": f"{teacher} -> {student}, {stem} stem, {size} px, global batch {batch}, {precision}, {method}",
        "device": f"cpu, {torch.get_num_threads()} thread a process",
        "torch": torch.__version__,
    }
    if json_:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
