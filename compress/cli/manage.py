"""The commands for data sets, runs and recipes, and `doctor`."""

from dataclasses import asdict
from pathlib import Path

import click

from compress.cli.numbers import Finite
from compress.cli.output import as_json, print_json
from compress.cli.paths import UserPath


@click.group()
def data() -> None:
    """The data sets: what is known, what is here, and fetching one."""


@data.command("list")
@as_json
def data_list(json_: bool) -> None:
    """Name the data sets, and where they are."""
    from compress.data.sources import LAYOUTS, data_roots, find

    own = {
        "digits": "comes with scikit-learn",
        "folder": "your own: train/CLASS/*.png and val/CLASS/*.png",
        "csv": "your own: tables of paths and labels",
        "hub": "of the Hugging Face Hub: data.repo",
    }
    rows = [{"name": name, "path": str(find(name, None) or "")} for name in LAYOUTS if name not in own]
    if json_:
        print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<14}{row['path'] or f'not in {data_roots(None)[0]}'}")
    for name, where in own.items():
        click.echo(f"{name:<14}{where}")


@data.command("prepare")
@click.argument("name", type=click.Choice(["cifar100", "cinic10", "tinyimagenet"]))
@click.option("--root", type=UserPath(), help="Where to. Default: $COMPRESS_DATA, then data/.")
@click.option("--url", help="A mirror of the published archive; its checksum must still be the published one.")
def data_prepare(name: str, root: Path | None, url: str | None) -> None:
    """Download, verify and unpack a data set, unless it is there."""
    from compress.data.download import prepare
    from compress.data.sources import data_roots

    click.echo(prepare(name, data_roots(str(root) if root else None)[0], url=url))


@data.command("prune")
@click.option("--unused", "unused_days", metavar="DAYS", type=Finite(0), default=30, show_default=True)
@click.option("--yes", is_flag=True, help="Remove them. Without this nothing is touched.")
@as_json
def data_prune(unused_days: float, yes: bool, json_: bool) -> None:
    """List the caches of pictures and teachers' logits, and remove what was not used for DAYS or has lost its data."""
    from compress.data.caches import list_caches, prune_caches

    caches, chosen = list_caches(), prune_caches(unused_days=unused_days, remove=yes)
    verbs = {cache.path: "removed" if yes else "would remove" for cache in chosen}
    if json_:
        rows = [{**asdict(cache), "path": str(cache.path), "pruned": cache.path in verbs} for cache in caches]
        print_json(rows)
        return
    for cache in caches:
        verb = verbs.get(cache.path, "stays")
        click.echo(f"{verb:<13}{cache.path}  {cache.megabytes:.1f} MB  {cache.unused_days:.0f} days  {cache.source}")
    total = sum(cache.megabytes for cache in chosen)
    click.echo(f"{total:.1f} MB {'freed' if yes else 'can be freed: run it again with --yes'}")


@data.command("check")
@click.argument("recipe", type=UserPath())
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, as in data.root=photos.")
@click.option(
    "--preview",
    type=UserPath(dir_okay=False),
    metavar="FILE.png",
    help="Instead, draw samples as training sees them, a class in each row.",
)
@as_json
def data_check(recipe: Path, overrides: tuple[str, ...], preview: Path | None, json_: bool) -> None:
    """Look at every picture of RECIPE before a training does: what would stop it, and what would mislead.

    \b
    compress data check my.yaml
    compress data check my.yaml --json > found.json        every file of every finding
    compress data check my.yaml --preview samples.png      what the augmentation does

    Finds pictures that cannot be read, copies within and across the splits, the same picture in two classes, classes
    with few pictures, odd sizes and colours. Exit code 3 where a training would not start.
    """
    from compress.recipe import load_recipe

    loaded = load_recipe(recipe, overrides=overrides)

    if preview is not None:
        from compress.runs.preview import write_preview

        write_preview(loaded, preview)
        if json_:
            print_json({"preview": str(preview)})
        else:
            click.echo(preview)
        return

    from compress.cli.data_check import raise_if_stopped, show
    from compress.data.check import check_data
    from compress.system import console

    with console.phases() as bar:
        report = check_data(loaded.data, lambda done, total: bar("looking at pictures", done, total))
    if json_:
        print_json(report.dump())
    else:
        show(report, loaded.data.root)
    raise_if_stopped(report)


@click.group()
def runs() -> None:
    """The runs below runs/: what is there, and what it takes on disk."""


@runs.command("list")
@as_json
def runs_list(json_: bool) -> None:
    """List runs with their state, accuracy and size."""
    from compress.runs.housekeeping import list_runs

    rows = list_runs()
    if json_:
        print_json(rows)
        return
    for row in rows:
        top1 = f"{row['student_top1']:.2%}" if row["student_top1"] is not None else "-"
        click.echo(f"{row['run']:<60} {row['status']:<11} {top1:>7} {row['megabytes']:>8.1f} MB")
    if not rows:
        click.echo("no runs here yet: start one with `compress distill RECIPE`", err=True)


@runs.command("prune")
@click.option("--failed", is_flag=True, help="Also runs that failed or never finished, where no process holds them.")
@click.option("--yes", is_flag=True, help="Remove it. Without this nothing is touched.")
def runs_prune(failed: bool, yes: bool) -> None:
    """Remove checkpoints of finished runs and teachers that no run refers to."""
    from compress.runs.housekeeping import prune

    entries = prune(failed=failed, remove=yes)
    for path, size in entries:
        click.echo(f"{'removed' if yes else 'would remove'} {path}  {size / 1e6:.1f} MB")
    total = sum(size for _, size in entries) / 1e6
    click.echo(f"{total:.1f} MB {'freed' if yes else 'can be freed: run it again with --yes'}")


@click.group()
def recipe() -> None:
    """The recipes that come with compress, and what a recipe may hold."""


@recipe.command("list")
@as_json
def recipe_list(json_: bool) -> None:
    """List the recipes that come with compress, and what each trains.

    \b
    compress distill quickstart      trains one by its name
    """
    from compress.recipe import load_recipe
    from compress.recipe.library import packaged_recipe, recipe_names

    recipes = {name: load_recipe(packaged_recipe(name)) for name in recipe_names()}
    if json_:
        print_json(
            [
                {
                    "name": name,
                    "data": one.data.name,
                    "teacher": one.teacher.model,
                    "student": one.student.model,
                    "method": one.supervision.method,
                    "epochs": one.training.epochs,
                }
                for name, one in recipes.items()
            ]
        )
        return
    width = max(map(len, recipes)) + 2
    for name, one in recipes.items():
        epochs = one.training.epochs
        click.echo(
            f"{name:<{width}}{one.data.name}: {one.teacher.model} teaches {one.student.model}, "
            f"{one.supervision.method}, {epochs} {'epoch' if epochs == 1 else 'epochs'}"
        )


@recipe.command("show")
@click.argument("name")
def recipe_show(name: str) -> None:
    """Print the recipe NAME as it is, comments included.

    \b
    compress recipe show quickstart > my.yaml
    """
    from compress.recipe.library import packaged_recipe

    click.echo(packaged_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipe.command("schema")
def recipe_schema_command() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from compress.recipe import recipe_schema

    print_json(recipe_schema())


@click.command()
@as_json
def doctor(json_: bool) -> None:
    """Say what this machine offers: versions, processors, GPU, TensorRT, data, disk."""
    from compress.cli.doctor import examine

    facts = examine()
    if json_:
        print_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:<28}{value}")
