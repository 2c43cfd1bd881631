"""How long people wait before anything happens: help, the first optimiser step of a recipe, and decoding a data set.

    python tools/bench/startup.py cifar100_cpu                  with $COMPRESS_DATA set
    python tools/bench/startup.py tinyimagenet_cpu --decode

Every time is of a fresh process. The step is the student's. Everything is started once before it is timed: that run
decodes the data and trains the teacher, where they are not kept yet.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

import click
from harness import json_option, run, show

from compress.recipe import load_recipe
from compress.system.errors import InputError

FIRST_STEP = """
import sys, tempfile
from compress.system import console
console.show_log()
from pathlib import Path
from compress.training.memo import Memo
from compress.runs.distillation import distill_in_steps
from compress.recipe import load_recipe
with tempfile.TemporaryDirectory() as folder:
    steps = distill_in_steps(load_recipe(sys.argv[1]), memo=Memo(), out=Path(folder) / "run")
    next(steps)
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
    """Of the second start. The first one's messages are shown. Raises InputError where it ends without a line."""
    taken = 0.0
    for stderr in (None, subprocess.DEVNULL):
        began = time.perf_counter()
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            taken = time.perf_counter() - began
            process.stdout.read()
        if not line:
            raise InputError("the process ended before its first line", "Its own error is above.")
    return round(taken, 2)


@click.command()
@click.argument("recipe")
@click.option("--decode", is_flag=True, help="Also decode the data anew, into a cache of its own.")
@json_option
def main(recipe: str, decode: bool, as_json: bool) -> None:
    """The wait before the first step of RECIPE."""
    load_recipe(recipe)  # what is wrong with it is said before anything is started
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
