"""The commands that choose before a training: pick and init."""

import logging
from pathlib import Path
from typing import Any

import click

from compress.cli.numbers import Finite
from compress.cli.output import as_json, print_json
from compress.cli.paths import UserPath
from compress.system.errors import UsageError

logger = logging.getLogger(__name__)


@click.command()
@click.argument("recipe", type=UserPath(), required=False)
@click.option("--image-size", type=click.IntRange(4, 1024), help="Pixels a side. Default: RECIPE's data.image_size.")
@click.option(
    "--p90-ms",
    type=Finite(0, min_open=True),
    help="The budget: 90th percentile of a batch, of the model alone. Default: RECIPE's benchmark.p90_ms, at batch 1.",
)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["onnxruntime", "openvino", "ort"]),
    multiple=True,
    help="May be given several times; ort is onnxruntime. Default: all that are installed.",
)
@click.option("--threads", type=click.IntRange(1), help="Default: what this process may use.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--model", "models", metavar="NAME", multiple=True, help="A timm name. Default: 48 small architectures.")
@click.option("--plot", type=UserPath(), metavar="FILE", help="Draw accuracy against milliseconds: .png, .svg or .pdf.")
@click.option("--gate", is_flag=True, help="Exit 6 where no model fits.")
@click.option(
    "--with-accuracy",
    type=UserPath(),
    metavar="RECIPE",
    help="Then train the best three for an epoch on the data of that recipe, and rank again.",
)
@as_json
def pick(
    recipe: Path | None,
    image_size: int | None,
    p90_ms: float | None,
    runtimes: tuple[str, ...],
    threads: int | None,
    batch: int,
    models: tuple[str, ...],
    plot: Path | None,
    gate: bool,
    with_accuracy: Path | None,
    json_: bool,
) -> None:
    """Which student fits a latency on this machine, by published accuracy.

    \b
    compress pick --image-size 224 --p90-ms 5
    compress pick my.yaml --threads 1 --plot pick.png
    compress pick my.yaml --with-accuracy my.yaml

    Small architectures of timm are exported with random weights, on which latency does not depend. FP32, bf16 and INT8
    are timed in turns. Results are cached: another budget measures anew what is near it. RECIPE says the size and the
    budget.
    """
    from compress.data.sources import LAYOUTS
    from compress.recipe import load_recipe

    given = None if recipe is None else load_recipe(recipe)
    accuracy_recipe = None if with_accuracy is None else load_recipe(with_accuracy)
    size = image_size or (None if given is None else given.data.image_size or LAYOUTS[given.data.name].image_size)
    budget = p90_ms or (None if given is None or batch > 1 else given.benchmark.p90_ms)  # the recipe's is of batch 1
    for key, value in (("--image-size", size), ("--p90-ms", budget)):
        if value is None:
            raise UsageError(f"{key} is missing", "For example: compress pick --image-size 224 --p90-ms 5.")

    from export.pick import check_plot_file, pick_students, raise_if_none_fits, write_plot

    if plot is not None:
        check_plot_file(plot)
    chosen: Any = {{"ort": "onnxruntime"}.get(name, name) for name in runtimes}
    assert size is not None
    assert budget is not None
    found = pick_students(size, budget, runtimes=chosen, threads=threads, batch=batch, models=models)
    if accuracy_recipe is not None:
        from export.pick.accuracy import with_accuracy as ranked_by_accuracy

        found = ranked_by_accuracy(found, accuracy_recipe)
    if plot is not None:
        write_plot(found, plot)
    if json_:
        print_json(found.model_dump(mode="json"))
    else:
        from compress.cli.pick_table import show

        show(found)
    if gate:
        raise_if_none_fits(found)


@click.command()
@click.argument("folder", type=UserPath())
@click.option(
    "--p90-ms",
    type=Finite(0, min_open=True),
    help="The student's budget: 90th percentile at batch 1 on this machine, of the model alone.",
)
def init(folder: Path, p90_ms: float | None) -> None:
    """Print a commented recipe for the pictures of FOLDER: train/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg.

    \b
    compress init ~/photos > recipe.yaml
    compress init ~/photos --p90-ms 5 > recipe.yaml     a student that fits, as compress pick measured or measures here
    """
    from compress.runs.starter import concerns, image_size_for, look_at, starter_recipe
    from compress.system import console

    found = look_at(folder)
    for concern in concerns(found):
        logger.warning(concern)

    import torch

    from export.pick import suggest_models

    gpu = torch.cuda.is_available()
    size = image_size_for(found, gpu=gpu)
    models = suggest_models(size, p90_ms, gpu=gpu)
    click.echo(starter_recipe(found, models, image_size=size, p90_ms=p90_ms, gpu=gpu), nl=False)
    console.say("next: compress distill recipe.yaml --out runs/first; then export, benchmark and report of runs/first")
