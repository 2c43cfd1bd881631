"""The commands distill, sweep and predict."""

from pathlib import Path
from typing import Any

import click

from compress.cli.output import as_json, print_json
from compress.cli.paths import UserPath
from compress.distributed import launch
from compress.recipe.methods import METHOD_HELP


@click.command()
@click.argument("recipe", type=UserPath())
@click.option("--method", metavar="M", help=f"Supervision: {METHOD_HELP}")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, as in train.epochs=10.")
@click.option("--out", type=UserPath(), help="The run folder. Default: runs/NAME of its own.")
@click.option(
    "--resume", is_flag=True, help="Go on from the newest checkpoint of --out, or of this recipe's newest run."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@as_json
def distill(
    recipe: Path,
    method: str | None,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    device: str,
    json_: bool,
) -> None:
    """Train (or load) the teacher of RECIPE and distil its student.

    \b
    compress distill quickstart
    compress distill my.yaml --method kd --set train.seed=1
    """
    from compress.recipe import load_recipe

    loaded = load_recipe(recipe, method=method, overrides=overrides)

    from compress.runs.distillation import distill as distill_recipe
    from compress.system import console

    run = distill_recipe(loaded, name=recipe.stem, out=out, resume=resume, device=device)
    if not launch.leads():
        return
    manifest = run.result
    if json_:
        print_json({**manifest.dump(), "run": str(run.path)})
        return
    balanced = "" if manifest.data.balanced else f"   balanced {manifest.student_balanced_top1:.2%}"
    console.say(
        f"\nteacher  top1 {manifest.teacher_accuracy}\n"
        f"student  top1 {manifest.student_top1:.2%}   ({manifest.method}){balanced}\n"
        f"run      {run.path}\n"
        f"student  {run.student / 'model.safetensors'}   metrics  {run.metrics}"
    )


@click.command()
@click.argument("recipe", type=UserPath())
@click.option("--method", "methods", metavar="M", multiple=True, help="May be given several times, as --seed.")
@click.option("--seed", "seeds", type=int, multiple=True, help="train.seed: of the student; the teacher has its own.")
@click.option("--set", "varied", metavar="KEY=A,B", multiple=True, help="Values of a key, as in train.lr=0.1,0.05.")
@click.option("--baseline", metavar="ARM", help="What the table compares with. Default: the first arm.")
@click.option("--out", type=UserPath(), help="The folder of runs and table. Default: runs/.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="ray: on the cluster of RAY_ADDRESS, or on one that it starts here.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@as_json
def sweep(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    varied: tuple[str, ...],
    baseline: str | None,
    out: Path | None,
    engine: Any,
    device: str,
    json_: bool,
) -> None:
    """Every combination of methods, seeds and values as a run of its own; runs that share a teacher go in lockstep.

    \b
    compress sweep cifar100_cpu --method kd --method ka+dtd --seed 0 --seed 1 --seed 2

    Runs have stable names: the same command again skips what is finished and goes on with what is not. The table of
    means and of paired differences over seeds is written beside them, as HTML, Markdown and JSON.
    """
    from compress.sweeps.cells import baseline_arm, grid

    cells = grid(recipe, methods, seeds, varied, out)
    reference = baseline_arm(cells, baseline)

    from compress.runs.folder import runs_root
    from compress.sweeps.run import raise_if_failed, results
    from compress.sweeps.run import sweep as run_sweep
    from compress.system import console

    outcomes = run_sweep(cells, recipe_name=recipe.stem, device=device, engine=engine)

    from export.report import compare, write_sweep

    found = compare(recipe.stem, results(cells, outcomes), reference)
    page, text, _ = write_sweep(found, out or runs_root())
    if json_:
        print_json(found.model_dump(mode="json"))
    for run in found.runs:
        result = f"{run.student_top1:.2%}" if run.student_top1 is not None else run.error
        console.say(f"{run.run:<60} {run.status:<9} {result}")
    console.say(f"the table: {page}, {text}")
    raise_if_failed(outcomes)


@click.command()
@click.argument("model", type=UserPath(), metavar="RUN|ONNX")
@click.argument("images", type=UserPath(), nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@as_json
def predict(model: Path, images: tuple[Path, ...], top: int, json_: bool) -> None:
    """Classify IMAGEs with the student of RUN, or with an exported ONNX file: class names and probabilities."""
    from compress.cli.predict import predict as predict_images

    results = predict_images(model, list(images), top=top)
    if json_:
        print_json(results)
        return
    for result in results:
        classes = "   ".join(f"{entry['class']} {entry['probability']:.1%}" for entry in result["classes"])
        click.echo(f"{result['image']}   {classes}")
