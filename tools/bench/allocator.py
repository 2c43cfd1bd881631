"""A training step in a process that keeps the memory of freed tensors, against one as the C library has it.

Each process times steps of a student with random weights on noise, on all processors. The two take turns in rounds.

    python tools/bench/allocator.py --student tf_efficientnet_lite0 --size 160 --batch 32
"""

import subprocess
import sys
import time

import click
import timm
import torch
import torch.nn.functional as F
from harness import json_option, rounds_option, run, show, spread

from compress.system.allocator import keep_freed_memory


def seconds_a_step(student: str, size: int, batch: int, steps: int) -> float:
    """The fastest of so many steps, after two that warm up."""
    torch.manual_seed(0)
    model = timm.create_model(student, num_classes=10).to(memory_format=torch.channels_last).train()
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    taken = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        F.cross_entropy(model(images), torch.zeros(batch, dtype=torch.long)).backward()
        model.zero_grad()
        taken.append(time.perf_counter() - began)
    return min(taken[2:])


@click.command()
@click.option("--student", default="tf_efficientnet_lite0", show_default=True)
@click.option("--size", type=click.IntRange(8), default=160, show_default=True, help="Pixels a side.")
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option("--steps", type=click.IntRange(1), default=8, show_default=True)
@click.option("--alone", type=click.Choice(["keep", "as it is"]), help="One process; prints its seconds.")
@rounds_option(3)
@json_option
def main(student: str, size: int, batch: int, steps: int, alone: str | None, rounds: int, as_json: bool) -> None:
    """How much faster a step is with compress.system.allocator."""
    if alone is not None:
        if alone == "keep":
            keep_freed_memory()
        click.echo(seconds_a_step(student, size, batch, steps))
        return
    options = [f"--student={student}", f"--size={size}", f"--batch={batch}", f"--steps={steps}"]
    found: dict[str, list[float]] = {"keep": [], "as it is": []}
    for number in range(rounds):
        for how in list(found)[:: -1 if number % 2 else 1]:
            command = [sys.executable, __file__, *options, f"--alone={how}"]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(done.returncode)  # it said why
            found[how].append(float(done.stdout))
    ratios = [slow / fast for slow, fast in zip(found["as it is"], found["keep"], strict=True)]
    show({**spread("speed_ratio", ratios), "setting": f"{student}, {size} px, batch {batch}"}, as_json=as_json)


if __name__ == "__main__":
    run(main)
