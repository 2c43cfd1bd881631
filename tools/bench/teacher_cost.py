"""What the teacher costs: made cheap, kept on disk, or shared by several students. All contestants take turns.

- naive_over_cheap_teacher: a forward pass of the naive teacher (eval, no_grad, autocast where it is bf16) over one of
  the teacher that the loop uses.
- cached_over_plain_student: a step with kept logits (teacher.cache) over a step of plain training without any teacher.
- lockstep_over_its_parts: five methods on one batch over one teacher pass plus the five students' own steps, timed
  alone.

    python tools/bench/teacher_cost.py                     resnet34 -> resnet18, stock stem, 32 px, batch 64
    python tools/bench/teacher_cost.py --stem small --precision fp32 --json
"""

import os
import tempfile

import click
import torch
from harness import json_option, ratios, rounds_option, run, show, spread, take_turns
from torch import Tensor
from workload import Workload, next_epoch, run_whole_epoch, steps_of_an_epoch, training, workload_options

from compress.training.memo import Memo
from compress.training.state import Training
from compress.training.teacher_cache import TeacherViews

METHODS = ("kd", "ka-ps", "dtd-flsw", "dtd-cwsm", "ka-ps+dtd-flsw")
CPU = torch.device("cpu")


def in_lockstep(states: list[Training]) -> None:
    """One epoch of all: a step of each, then the next step, as compress.sweeps.lockstep does it."""
    running = [steps_of_an_epoch(state) for state in states]
    for _ in range(states[0].batches.steps_per_epoch + 1):
        for steps in running:
            next(steps, None)
    for state in states:
        next_epoch(state)


@click.command()
@workload_options(method=None, steps=4)
@rounds_option(7)
@json_option
def main(workload: Workload, rounds: int, as_json: bool) -> None:
    """What the teacher costs a student's training, on a CPU."""
    images = workload.images(CPU)
    teacher = workload.model(workload.as_recipe().teacher).eval()

    def prepared(method: str, memo: Memo, views: TeacherViews | None = None) -> Training:
        settings = workload.as_recipe(method, epochs=1000)
        return training(settings, images, teacher, workload.model(settings.student), views=views, memo=memo)

    constant = images.normalized(slice(0, workload.batch))
    naive = teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def naive_pass() -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=workload.precision == "bf16"):
            return naive(constant)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["COMPRESS_CACHE"] = folder
        count = workload.images_a_round
        views = TeacherViews(count=1, samples=count, of_a_pass=512, device=CPU, determined_by={})
        together = Memo()
        five = [prepared(method, together) for method in METHODS]
        cheap = five[0].batches.teacher
        assert cheap is not None
        plain, cached = prepared("ce", Memo()), prepared("kd", Memo(), views)
        # The five students' own steps: with logits that are there already, each alone.
        alone = [prepared(method, Memo(), views) for method in METHODS]
        seconds = take_turns(
            {
                "naive": lambda: [naive_pass() for _ in range(workload.steps)],
                "cheap": lambda: [cheap(constant) for _ in range(workload.steps)],
                "plain": lambda: run_whole_epoch(plain),
                "cached": lambda: run_whole_epoch(cached),
                "lockstep": lambda: in_lockstep(five),
                "alone": lambda: [run_whole_epoch(state) for state in alone],
            },
            rounds,
        )
    parts = [a + b for a, b in zip(seconds["cheap"], seconds["alone"], strict=True)]
    result = {
        **spread("naive_over_cheap_teacher", ratios(seconds["naive"], seconds["cheap"])),
        **spread("cached_over_plain_student", ratios(seconds["cached"], seconds["plain"])),
        **spread("lockstep_over_its_parts", ratios(seconds["lockstep"], parts)),
        "setting": str(workload),
    }
    show(result, as_json=as_json)


if __name__ == "__main__":
    run(main)
