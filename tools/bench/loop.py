"""Images a second of the real distillation loop, of the bare computation (the roofline), and their ratio.

The loop is compress.training.loop.run_epoch as users run it: batches drawn and augmented from uint8 images, teacher,
student, loss, divergence check, optimiser, schedule, metrics. The roofline is the same teacher and student, precision,
loss and optimiser on one constant batch. Both alternate in rounds within one process; medians over rounds.

    python tools/bench/loop.py                       resnet34 -> resnet18, stock stem, 32 px, batch 64, bf16, kd
    python tools/bench/loop.py --stem small --size 64 --batch 256 --method ka+dtd --json
"""

import json
import statistics
import time

import click
import torch
from torch import Tensor

from compress import models, recipe
from compress.data.augment import Images
from compress.distributed.agreement import Agreement
from compress.losses.objective import Means, Objective
from compress.system import console
from compress.system.interrupts import Flag
from compress.training.batches import Batch, batches_and_teacher
from compress.training.loop import finish, run_epoch
from compress.training.memo import Memo
from compress.training.state import Training, loss_parts, prepare


def roofline_step(state: Training, images: Tensor, labels: Tensor) -> None:
    teacher = state.batches.teacher
    batch = Batch(images, labels, None if teacher is None else teacher(images))
    loss_parts(state, batch)[0]["loss"].backward()
    state.optimizer.found_inf = None  # type: ignore[attr-defined]
    state.optimizer.step()
    state.optimizer.zero_grad()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@click.command()
@click.option("--teacher", default="resnet34", show_default=True)
@click.option("--student", default="resnet18", show_default=True)
@click.option("--stem", type=click.Choice(["stock", "small"]), default="stock", show_default=True)
@click.option("--classes", default=100, show_default=True)
@click.option("--size", default=32, show_default=True, help="Pixels a side.")
@click.option("--batch", default=64, show_default=True)
@click.option("--method", default="kd", show_default=True)
@click.option("--precision", type=click.Choice(["bf16", "fp32"]), default="bf16", show_default=True)
@click.option("--compile", "compiled", is_flag=True, help="torch.compile both models, in the loop and the roofline.")
@click.option("--steps", default=8, show_default=True, help="In each round, for the loop and for the roofline.")
@click.option("--rounds", default=7, show_default=True)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu")
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
    compiled: bool,
    steps: int,
    rounds: int,
    device: str,
    json_: bool,
) -> None:
    place = torch.device(device)
    checked = recipe.validate_recipe(
        {
            "data": {"name": "cifar100"},
            "teacher": {"model": teacher, "stem": stem},
            "student": {"model": student, "stem": stem},
            "supervision": {"method": method},
            "train": {"batch_size": batch, "precision": precision, "compile": compiled},
        }
    )
    count = steps * batch
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, classes, (count,), generator=generator)
    half = torch.full((3,), 0.5, device=place)
    images = Images(pixels.to(place), labels.to(place), half, half / 2)
    objective = Objective.of(checked.supervision, label_smoothing=0.0)
    batches, _ = batches_and_teacher(
        images,
        models.create_model(checked.teacher, num_classes=classes, image_size=size),
        objective,
        checked.train,
        recipe.Augment(crop=size // 8, flip=True),
        "student",
        views=None,
        memo=Memo(),
    )
    model = models.create_model(checked.student, num_classes=classes, image_size=size)
    state = prepare(model, batches, objective, checked.train, checked.train.epochs, "student")
    constant = images.normalized(slice(0, batch))
    constant_labels = images.labels[:batch]

    def loop_round() -> None:
        state.step, state.means = 0, Means()
        finish(run_epoch(state, Agreement(Flag()), console.Bar(), lambda: None))
        state.epoch += 1

    def roofline_round() -> None:
        for _ in range(steps):
            roofline_step(state, constant, constant_labels)

    seconds: dict[str, list[float]] = {"loop": [], "roofline": []}
    for number in range(rounds + 1):  # the first warms up
        order = [("loop", loop_round), ("roofline", roofline_round)]
        for name, work in order if number % 2 else reversed(order):
            synchronize(place)
            began = time.perf_counter()
            work()
            synchronize(place)
            if number:
                seconds[name].append(time.perf_counter() - began)
    loop, roofline = (count / statistics.median(seconds[name]) for name in ("loop", "roofline"))
    ratio = statistics.median(r / s for r, s in zip(seconds["roofline"], seconds["loop"], strict=True))
    result = {
        "loop_images_per_s": round(loop, 1),
        "roofline_images_per_s": round(roofline, 1),
        "ratio": round(ratio, 4),
        "ratio_min": round(min(r / s for r, s in zip(seconds["roofline"], seconds["loop"], strict=True)), 4),
        "ratio_max": round(max(r / s for r, s in zip(seconds["roofline"], seconds["loop"], strict=True)), 4),
        "setting": f"{teacher} -> {student}, {stem} stem, {size} px, batch {batch}, {precision}, {method}",
        "device": torch.cuda.get_device_name(place)
        if place.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    if json_:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
