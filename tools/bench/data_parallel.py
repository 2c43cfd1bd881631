"""How much faster several processes of one thread train than one such process, at the same global batch.

Both are the real loop (compress.training.loop.run_epoch), in turns: the first process trains alone, then all train
together. Medians over rounds; the efficiency is the speed-up over the number of processes.

    torchrun --nproc-per-node=2 tools/bench/data_parallel.py       resnet34 -> resnet18, 32 px, batch 128, fp32, kd
    torchrun --nproc-per-node=2 tools/bench/data_parallel.py --method ka+dtd --batch 64 --json
"""

import click
import torch
from harness import json_option, per_second, ratios, rounds_option, run, show, spread, take_turns
from workload import Workload, run_whole_epoch, training, workload_options

from compress.distributed import launch
from compress.distributed.world import joined
from compress.system.errors import UsageError
from compress.training.state import Training


@click.command()
@workload_options(method="kd", batch=128, precision="fp32", steps=4)
@rounds_option(7)
@json_option
def main(workload: Workload, rounds: int, as_json: bool) -> None:
    """The speed-up of several processes over one, under torchrun."""
    if launch.size() == 1:
        raise UsageError("there is one process", "Start it with torchrun --nproc-per-node=2.")
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    settings, images = workload.as_recipe(), workload.images(cpu)

    def prepared() -> Training:
        return training(settings, images, workload.model(settings.teacher), workload.model(settings.student))

    alone = prepared()  # outside of the group, so that it knows of no other process
    with joined(cpu) as world:
        together = prepared()
        seconds = take_turns(
            {
                "alone": lambda: world.from_leader(lambda: run_whole_epoch(alone)),
                "together": lambda: run_whole_epoch(together),
            },
            rounds,
            lambda: world.from_leader(lambda: None),
        )
    if not launch.leads():
        return
    speedups = ratios(seconds["alone"], seconds["together"])
    result = {
        "alone_images_per_s": per_second(workload.images_a_round, seconds["alone"]),
        "together_images_per_s": per_second(workload.images_a_round, seconds["together"]),
        "processes": launch.size(),
        **spread("speedup", speedups),
        **spread("efficiency", [each / launch.size() for each in speedups]),
        "setting": f"{workload}, one thread a process",
    }
    show(result, as_json=as_json)


if __name__ == "__main__":
    run(main)
