"""How long people wait before anything happens: help, the first optimiser step of a recipe, and decoding a data set.

    python tools/bench/startup.py recipes/cifar100_cpu.yaml            $COMPRESS_DATA set, the data decoded before
    python tools/bench/startup.py recipes/tinyimagenet_cpu.yaml --decode

Every time is of a fresh process. The first step is the student's: run the recipe once in this folder before, so that
its teacher is kept in runs/teachers.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import click
from harness import json_option, run, show

from compress.system.errors import InputError

FIRST_STEP = """
import sys, tempfile
from pathlib import Path
from compress.training.memo import Memo
from compress.runs.distillation import distill_in_steps
from compress.recipe import load_recipe
with tempfile.TemporaryDirectory() as folder:
    steps = distill_in_steps(load_recipe(sys.argv[1]), memo=Memo(), out=Path(folder) / "run")
    if next(steps).phase == "student":
        next(steps)
        print("stepped", flush=True)
    steps.close()
"""
DECODE = """
import json, sys, time
from compress.data import load_data
from compress.recipe import load_recipe
settings = load_recipe(sys.argv[1]).data
began = time.perf_counter()
dataset = load_data(settings)
print(json.dumps([len(dataset.train_labels) + len(dataset.eval_labels), time.perf_counter() - began]))
"""


def seconds_until_first_line(arguments: list[str]) -> float:
    began = time.perf_counter()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        taken = time.perf_counter() - began
        process.kill()
    if not line:
        raise InputError("it failed, or the teacher is not kept here", "Run the recipe once in this folder before.")
    return round(taken, 2)


@click.command()
@click.argument("recipe")
@click.option("--decode", is_flag=True, help="Also decode the data anew, into a cache of its own.")
@json_option
def main(recipe: str, decode: bool, as_json: bool) -> None:
    """The wait before the first step of RECIPE."""
    result: dict[str, object] = {
        "help_s": seconds_until_first_line([sys.executable, "-m", "compress", "--help"]),
        "first_step_s": seconds_until_first_line([sys.executable, "-c", FIRST_STEP, recipe]),
    }
    if decode:
        with tempfile.TemporaryDirectory() as cache:
            answer = subprocess.run(
                [sys.executable, "-c", DECODE, recipe],
                env={**os.environ, "COMPRESS_CACHE": cache},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        count, seconds = json.loads(answer)
        result |= {"images": count, "decoded_images_per_s": round(count / seconds)}
    show({**result, "setting": recipe}, as_json=as_json)


if __name__ == "__main__":
    run(main)
