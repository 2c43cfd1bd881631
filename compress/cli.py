"""The command line. The only place where an exception becomes one line and an exit code.

Heavy imports happen inside the commands, so that --help answers at once.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from compress import launch, streams
from compress.errors import CompressError, Interrupted, MachineError, UsageError
from compress.methods import METHOD_HELP

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
as_json = click.option("--json", "json_", is_flag=True, help="Print the result on stdout as JSON.")


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="compress")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """Distil timm image classifiers into compact students, and take them to deployment."""
    if launch.size() > 1 and context.invoked_subcommand != "distill":
        raise UsageError(
            f"compress {context.invoked_subcommand} runs in one process, and torchrun started {launch.size()}",
            "Give the command without torchrun, which is for distill.",
        )


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--method", metavar="M", help=f"Supervision: {METHOD_HELP}")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a key, as in train.epochs=10.")
@click.option("--out", type=click.Path(path_type=Path), help="The run folder. Default: runs/NAME of its own.")
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
    compress distill recipes/quickstart.yaml
    compress distill recipes/cifar100_r34_to_r18.yaml --method kd --set train.seed=1
    """
    from compress.recipe import load_recipe

    loaded = load_recipe(recipe, method=method, overrides=overrides)

    from compress import console
    from compress.distillation import distill as distill_recipe

    run = distill_recipe(loaded, name=recipe.stem, out=out, resume=resume, device=device)
    if not launch.leads():
        return
    manifest = run.manifest
    if json_:
        _print_json({**manifest, "run": str(run.path)})
        return
    balanced = "" if manifest["data"]["balanced"] else f"   balanced {manifest['student_balanced_top1']:.2%}"
    console.say(
        f"\nteacher  top1 {manifest['teacher_top1']:.2%}\n"
        f"student  top1 {manifest['student_top1']:.2%}   ({manifest['method']}){balanced}\n"
        f"run      {run.path}\n"
        f"student  {run.student / 'model.safetensors'}   metrics  {run.path / 'metrics.jsonl'}"
    )


@cli.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--method", "methods", metavar="M", multiple=True, help="May be given several times, as --seed.")
@click.option("--seed", "seeds", type=int, multiple=True, help="train.seed: of the student; the teacher has its own.")
@click.option("--set", "varied", metavar="KEY=A,B", multiple=True, help="Values of a key, as in train.lr=0.1,0.05.")
@click.option("--baseline", metavar="ARM", help="What the table compares with. Default: the first arm.")
@click.option("--out", type=click.Path(path_type=Path), help="The folder of runs and table. Default: runs/.")
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
    compress sweep recipes/cifar100_cpu.yaml --method kd --method ka+dtd --seed 0 --seed 1 --seed 2

    Runs have stable names: the same command again skips what is finished and goes on with what is not. The table of
    means and of paired differences over seeds is written beside them, as HTML, Markdown and JSON.
    """
    from compress.sweep import baseline_arm, grid

    cells = grid(recipe, methods, seeds, varied, out)
    reference = baseline_arm(cells, baseline)

    from compress import console
    from compress.run import RUNS
    from compress.sweep import raise_if_failed, results
    from compress.sweep import sweep as run_sweep

    outcomes = run_sweep(cells, recipe_name=recipe.stem, device=device, engine=engine)

    from export.sweep_report import write_sweep
    from export.sweep_results import compare

    found = compare(recipe.stem, results(cells, outcomes), reference)
    page, text, _ = write_sweep(found, out or RUNS)
    if json_:
        _print_json(found.model_dump(mode="json"))
    for run in found.runs:
        result = f"{run.student_top1:.2%}" if run.student_top1 is not None else run.error
        console.say(f"{run.run:<60} {run.status:<9} {result}")
    console.say(f"the table: {page}, {text}")
    raise_if_failed(outcomes)


@cli.command()
@click.argument("model", type=click.Path(path_type=Path), metavar="RUN|ONNX")
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="IMAGE...")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many classes to show.")
@as_json
def predict(model: Path, images: tuple[Path, ...], top: int, json_: bool) -> None:
    """Classify IMAGEs with the student of RUN, or with an exported ONNX file: class names and probabilities."""
    from compress.predict import predict as predict_images

    results = predict_images(model, list(images), top=top)
    if json_:
        _print_json(results)
        return
    for result in results:
        classes = "   ".join(f"{entry['class']} {entry['probability']:.1%}" for entry in result["classes"])
        click.echo(f"{result['image']}   {classes}")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option(
    "--format", "formats", type=click.Choice(["onnx", "trt"]), multiple=True, default=["onnx"], show_default=True
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "int8"]),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="May be given several times.",
)
@click.option("--preprocess", is_flag=True, help="Also a graph that takes uint8 pixels and gives probabilities.")
@click.option("--teacher", is_flag=True, help="Also export the teacher, for comparison.")
@click.option("--bundle", is_flag=True, help="Also a folder with all that a deployer needs; see compress verify.")
@click.option("--zip", "zipped", is_flag=True, help="The bundle as one zip file.")
@click.option(
    "--capability", "capabilities", multiple=True, help="A GPU to build engines for, as in 89. No GPU is needed."
)
@click.option("--threads", type=click.IntRange(1), help="For ONNX Runtime. Default: what this process may use.")
@as_json
def export(
    run: Path | None,
    formats: tuple[Any, ...],
    precisions: tuple[Any, ...],
    preprocess: bool,
    teacher: bool,
    bundle: bool,
    zipped: bool,
    capabilities: tuple[str, ...],
    threads: int | None,
    json_: bool,
) -> None:
    """Turn the student of RUN (default: the newest finished one) into files that are deployed.

    \b
    compress export --precision fp32 --precision int8 --bundle
    compress export runs/NAME --format trt --precision fp16 --capability 89
    """
    from compress import console
    from compress.run import finished_run

    found = finished_run(run)
    console.say(f"exporting {found.path}")

    from export.from_run import export_run

    record = export_run(
        found,
        formats=formats,
        precisions=precisions,
        preprocess=preprocess,
        teacher=teacher,
        bundle=("zip" if zipped else "folder") if bundle or zipped else None,
        threads=threads,
        compute_capabilities=capabilities,
    )
    if json_:
        _print_json({**record, "run": str(found.path)})
        return
    for name, entry in record["files"].items():
        console.say(f"{found.path / 'export' / name}   {entry['bytes'] / 1e6:.1f} MB")
    if "bundle" in record:
        console.say(f"{record['bundle']}   check it on the target with `compress verify`")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--runtime", "runtimes", type=click.Choice(["torch", "ort", "trt"]), multiple=True, help="Default: all.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Default: 1 and 32.")
@click.option("--threads", type=click.IntRange(1), multiple=True, help="Default: what this process may use.")
@click.option(
    "--seconds", type=click.FloatRange(0), default=3.0, show_default=True, help="Least time for each latency."
)
@click.option("--gate", is_flag=True, help="Exit 6 where the verdict is FAIL.")
@as_json
def benchmark(
    run: Path | None,
    runtimes: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    seconds: float,
    gate: bool,
    json_: bool,
) -> None:
    """Measure the student of RUN (default: the newest finished one) against its teacher, and judge it.

    \b
    compress benchmark --batch 1 --batch 64 --threads 1
    compress benchmark runs/NAME --runtime ort --gate
    """
    from compress import console
    from compress.run import finished_run

    found = finished_run(run)
    console.say(f"benchmarking {found.path}")

    from export.benchmark import benchmark_run
    from export.results import Verdict
    from export.verdict import gate as raise_on_fail

    content = benchmark_run(
        found, runtimes=runtimes, batches=batches, threads=threads, min_seconds=seconds, say=console.say
    )
    verdict = Verdict.model_validate(content["verdict"])
    if json_:
        _print_json({**content, "run": str(found.path)})
    for warning in content["warnings"]:
        console.warn(warning)
    console.say(f"{verdict.outcome}  {verdict.recommended or 'nothing to deploy'}   {found.path / 'benchmark.json'}")
    console.say(f"the page: compress report {found.path}")
    if gate:
        raise_on_fail(verdict)


@cli.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), help="The page. Default: RUN/report.html, or ./report.html.")
@as_json
def report(runs: tuple[Path, ...], out: Path | None, json_: bool) -> None:
    """A page and Markdown of what `compress benchmark` measured of one RUN, or of several side by side."""
    from export.report import report as write_report

    written = [str(path) for path in write_report(list(runs), out)]
    if json_:
        _print_json(written)
        return
    for path in written:
        click.echo(path)


@cli.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threads", type=click.IntRange(1), help="For ONNX Runtime. Default: what this process may use.")
def verify(bundle: Path, threads: int | None) -> None:
    """Replay the golden inputs of BUNDLE on this machine: pass, or exit 6."""
    from export.bundle import verify_bundle

    for name, difference in verify_bundle(bundle, threads=threads).items():
        click.echo(f"pass  {name}  differs by {difference:.2g} of its largest logit")


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("repo")
@click.option("--private", is_flag=True, help="Where the repository does not exist yet.")
@click.option("--dry-run", is_flag=True, help="Only write RUN/hub. So it is without a token, too.")
@as_json
def push(run: Path, repo: str, private: bool, dry_run: bool, json_: bool) -> None:
    """Put the student of RUN on the Hugging Face Hub as REPO, in timm's format, with a card of what was measured.

    \b
    compress push runs/NAME you/cifar100-resnet18 --dry-run
    """
    from compress import console
    from compress.run import finished_run
    from export.hub import push_run

    outcome = push_run(finished_run(run), repo, private=private, dry_run=dry_run)
    if json_:
        _print_json(outcome)
        return
    for name in outcome["files"]:
        click.echo(f"{outcome['folder']}/{name}")
    if outcome["url"]:
        click.echo(outcome["url"])
    else:
        console.say("nothing was pushed. Log in with `hf auth login` or set HF_TOKEN, and leave --dry-run out")


@cli.group()
def data() -> None:
    """The data sets: what is known, what is here, and fetching one."""


@data.command("list")
@as_json
def data_list(json_: bool) -> None:
    """Name the data sets, and where they are."""
    from compress.datasets import LAYOUTS, data_roots, find

    own = {"digits": "comes with scikit-learn", "folder": "your own: train/CLASS/*.png and val/CLASS/*.png"}
    rows = [{"name": name, "path": str(find(name, None) or "")} for name in LAYOUTS if name not in own]
    if json_:
        _print_json(rows)
        return
    for row in rows:
        click.echo(f"{row['name']:<14}{row['path'] or f'not in {data_roots(None)[0]}'}")
    for name, where in own.items():
        click.echo(f"{name:<14}{where}")


@data.command("prepare")
@click.argument("name", type=click.Choice(["cifar100", "cinic10", "tinyimagenet"]))
@click.option("--root", type=click.Path(path_type=Path), help="Where to. Default: $COMPRESS_DATA, then data/.")
@click.option("--url", help="A mirror of the published archive; its checksum must still be the published one.")
def data_prepare(name: str, root: Path | None, url: str | None) -> None:
    """Download, verify and unpack a data set, unless it is there."""
    from compress.datasets import data_roots
    from compress.download import prepare

    click.echo(prepare(name, data_roots(str(root) if root else None)[0], url=url))


@cli.group()
def runs() -> None:
    """The runs below runs/: what is there, and what it takes on disk."""


@runs.command("list")
@as_json
def runs_list(json_: bool) -> None:
    """List runs with their state, accuracy and size."""
    from compress.housekeeping import list_runs

    rows = list_runs()
    if json_:
        _print_json(rows)
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
    from compress.housekeeping import prune

    entries = prune(failed=failed, remove=yes)
    for path, size in entries:
        click.echo(f"{'removed' if yes else 'would remove'} {path}  {size / 1e6:.1f} MB")
    total = sum(size for _, size in entries) / 1e6
    click.echo(f"{total:.1f} MB {'freed' if yes else 'can be freed: run it again with --yes'}")


@cli.group()
def recipe() -> None:
    """About recipes."""


@recipe.command("schema")
def recipe_schema_command() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from compress.recipe import recipe_schema

    _print_json(recipe_schema())


@cli.command()
@as_json
def doctor(json_: bool) -> None:
    """Say what this machine offers: versions, processors, GPU, TensorRT, data, disk."""
    from compress.doctor import examine

    facts = examine()
    if json_:
        _print_json(facts)
        return
    for name, value in facts.items():
        click.echo(f"{name:<22}{value}")


def _print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))


def main() -> None:
    """Entry point of the `compress` command and of `python -m compress`."""
    streams.ensure_open()
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    code = _run(debug)
    if code and launch.size() > 1:
        sys.stdout.flush()
        os._exit(code)  # collectives that others have left must not hold up the end
    sys.exit(code)


def _run(debug: bool) -> int:
    from compress.interrupts import ignore_signals, raise_on_signals

    raise_on_signals()
    try:
        try:
            cli.main(standalone_mode=False, prog_name="compress")
            sys.stdout.flush()
        finally:
            ignore_signals()
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return 2
    except click.ClickException as error:
        return _fail(UsageError(error.format_message(), "See --help."), debug)
    except CompressError as error:
        return _fail(error, debug)
    except (Interrupted, KeyboardInterrupt, click.Abort) as stop:
        code = stop.code if isinstance(stop, Interrupted) else 130
        return _end(code, "interrupted. Give the same command again; distill goes on with --resume.")
    except BrokenPipeError:
        streams.silence(1)  # the reader went away (`| head`): not an error of ours
        return 0
    except OSError as error:
        streams.silence(1)  # it may be stdout that cannot be written
        return _fail(MachineError(f"{error.filename or 'stdout'}: {error.strerror or error}"), debug)
    except MemoryError as error:
        return _fail(MachineError(f"not enough memory: {error}", "Use smaller batches, or a larger machine."), debug)
    except Exception as error:  # noqa: BLE001 - the last resort: a fault of ours, said as one
        if debug:
            traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        return _end(1, f"{type(error).__name__}: {first} This is a fault in compress: please report it, with --debug.")


def _fail(error: CompressError, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    return _end(error.code, str(error))


def _end(code: int, text: str) -> int:
    """The exit code. Of several processes that end together one says why."""
    code, speaks = launch.last_words(code)
    if speaks:
        _print_error(text)
    return code


def _print_error(text: str) -> None:
    shown = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    print(f"error: {shown}", file=streams.Stderr(), flush=True)
