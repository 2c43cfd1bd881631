"""Images a second of the real distillation loop, of the bare computation (the roofline), and their ratio.

The loop is compress.training.loop.run_epoch as users run it: batches drawn and augmented from uint8 images, teacher,
student, loss, divergence check, optimiser, schedule, metrics. The roofline is the same teacher and student, precision,
loss and optimiser on one constant batch. Both take turns in rounds within one process; medians over rounds.

    python tools/bench/loop.py                       resnet34 -> resnet18, stock stem, 32 px, batch 64, bf16, kd
    python tools/bench/loop.py --stem small --size 64 --batch 256 --method ka+dtd --json
    python tools/bench/loop.py --photos ~/photos --teacher tf_efficientnet_lite2 --student tf_efficientnet_lite0 \
        --classes 10 --size 160 --batch 32 --precision fp32
"""

from dataclasses import replace
from pathlib import Path

import click
import torch
from harness import json_option, per_second, ratios, rounds_option, run, show, spread, take_turns
from torch import Tensor
from workload import Workload, run_whole_epoch, training, workload_options

from compress.data import StreamedImages, load_data, on_device
from compress.recipe import Augment, Data
from compress.system.allocator import keep_freed_memory
from compress.system.errors import UsageError
from compress.training.batches import Batch
from compress.training.state import Training, loss_parts


def roofline_step(state: Training, images: Tensor, labels: Tensor) -> None:
    teacher = state.batches.teacher
    batch = Batch(images, labels, None if teacher is None else teacher(images))
    loss_parts(state, batch)[0]["loss"].backward()
    state.optimizer.found_inf = None  # type: ignore[attr-defined]
    state.optimizer.step()
    state.optimizer.zero_grad()


def streamed(photos: Path, workload: Workload, device: torch.device) -> StreamedImages:
    """As many photos as a round has, which are decoded for each use. Raises UsageError where there are fewer."""
    dataset = load_data(Data(name="folder", root=str(photos), image_size=workload.size, loader="stream"))
    images = on_device(dataset, device).train
    assert isinstance(images, StreamedImages)
    if len(images.labels) < workload.images_a_round:
        raise UsageError(
            f"{photos} has {len(images.labels):,} photos to train on, and a round takes {workload.images_a_round:,}",
            "Set fewer --steps, or a smaller --batch.",
        )
    return replace(images, labels=images.labels[torch.randperm(len(images.labels))[: workload.images_a_round]])


@click.command()
@workload_options(method="kd")
@click.option("--compile", "compiled", is_flag=True, help="torch.compile both models, in the loop and the roofline.")
@click.option(
    "--photos", type=click.Path(path_type=Path, exists=True), help="Stream these, train/CLASS/, instead of noise."
)
@click.option("--device", default="cuda" if torch.cuda.is_available() else "cpu", show_default=True)
@rounds_option(7)
@json_option
def main(workload: Workload, compiled: bool, photos: Path | None, device: str, rounds: int, as_json: bool) -> None:
    """How much of the bare computation's speed the real loop has."""
    place = torch.device(device)
    settings = workload.as_recipe(compile=compiled)
    if place.type == "cpu":
        keep_freed_memory()
    images = workload.images(place) if photos is None else streamed(photos, workload, place)
    augment = None if photos is None else Augment(crop=0, flip=True, scale=0.35)
    state = training(settings, images, workload.model(settings.teacher), workload.model(settings.student), augment)
    constant, labels = images.normalized(slice(0, workload.batch)), images.labels[: workload.batch]

    def roofline() -> None:
        for _ in range(workload.steps):
            roofline_step(state, constant, labels)

    seconds = take_turns(
        {"loop": lambda: run_whole_epoch(state), "roofline": roofline},
        rounds,
        torch.cuda.synchronize if place.type == "cuda" else lambda: None,
    )
    result = {
        "loop_images_per_s": per_second(workload.images_a_round, seconds["loop"]),
        "roofline_images_per_s": per_second(workload.images_a_round, seconds["roofline"]),
        **spread("ratio", ratios(seconds["roofline"], seconds["loop"])),
        "setting": f"{workload}, {place.type}{', photos' if photos else ''}",
    }
    show(result, as_json=as_json)


if __name__ == "__main__":
    run(main)
