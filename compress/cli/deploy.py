"""The commands that take a student to deployment: export, benchmark, report, verify and push."""

import logging
from pathlib import Path
from typing import Any

import click

from compress.cli.numbers import Finite
from compress.cli.output import as_json, print_json
from compress.cli.paths import UserPath
from compress.system.errors import UsageError

logger = logging.getLogger(__name__)


def _check_undecided(gate: bool, undecided: int | None) -> None:
    if undecided is not None and not gate:
        raise UsageError("--undecided is the exit code of a gate, and there is none", "Add --gate.")


@click.command()
@click.argument("run", type=UserPath(), required=False)
@click.option(
    "--format",
    "formats",
    type=click.Choice(["onnx", "trt", "openvino"]),
    multiple=True,
    help="May be given several times. Default: the recipe's export.formats, which is onnx unless set.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
    multiple=True,
    help="May be given several times. bf16: OpenVINO computes the FP32 file in it. Default: the recipe's "
    "export.precisions, which is fp32 unless set.",
)
@click.option("--preprocess", is_flag=True, help="Also a graph that takes uint8 pixels and gives probabilities.")
@click.option("--teacher", is_flag=True, help="Also export the teacher, for comparison.")
@click.option("--bundle", is_flag=True, help="Also a folder with all that a deployer needs; see compress verify.")
@click.option("--zip", "zipped", is_flag=True, help="The bundle as one zip file.")
@click.option(
    "--capability", "capabilities", multiple=True, help="A GPU to build engines for, as in 89. No GPU is needed."
)
@click.option("--threads", type=click.IntRange(1), help="For ONNX Runtime. Default: what this process may use.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="A setting of export, as in export.max_int8_top1_drop=0.01.",
)
@click.option("--gate", is_flag=True, help="Exit 6 also where a file, or an IR in bf16, is UNDECIDED at its gate.")
@click.option(
    "--undecided",
    type=click.IntRange(0, 255),
    help="With --gate: the exit code where a file is UNDECIDED.  [default: 6]",
)
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
    overrides: tuple[str, ...],
    gate: bool,
    undecided: int | None,
    json_: bool,
) -> None:
    """Turn the student of RUN (default: the newest finished one) into files that are deployed.

    \b
    compress export --precision fp32 --precision int8 --bundle
    compress export runs/NAME --format trt --precision fp16 --capability 89
    """
    _check_undecided(gate, undecided)
    from compress.runs.folder import finished_run
    from compress.system import console

    found = finished_run(run)
    console.say(f"exporting {found.path}")

    from export import export_run
    from export.folder import ExportFolder
    from export.gates import require_decided

    kind = ("zip" if zipped else "folder") if bundle or zipped else None
    record = export_run(
        found,
        formats=formats or None,
        precisions=precisions or None,
        preprocess=preprocess,
        teacher=teacher,
        bundle=kind,
        threads=threads,
        compute_capabilities=capabilities,
        overrides=overrides,
    )
    folder = ExportFolder(found.export)
    made = {None: None, "folder": folder.bundle, "zip": folder.bundle_zip}[kind]
    if json_:
        print_json({**record.dump(), **({"bundle": str(made)} if made else {}), "run": str(found.path)})
    else:
        for name, entry in record.files.items():
            mark = "   UNDECIDED" if entry.undecided else ""
            console.say(f"{folder.file(name)}   {entry.bytes / 1e6:.1f} MB{mark}")
        if made:
            console.say(f"{made}   check it on the target with `compress verify`")
    if gate and undecided is None:
        require_decided(record)
    elif gate and any(entry.undecided for entry in record.files.values()):
        raise SystemExit(undecided)


@click.command()
@click.argument("run", type=UserPath(), required=False)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["torch", "ort", "openvino", "trt"]),
    multiple=True,
    help="May be given several times. Default: all that are installed.",
)
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Default: benchmark.batches.")
@click.option("--threads", type=click.IntRange(1), multiple=True, help="Default: what this process may use.")
@click.option("--seconds", type=Finite(0), default=3.0, show_default=True, help="Least time for each latency.")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="A limit, as in benchmark.p90_ms=5 or export.max_int8_top1_drop=0.01.",
)
@click.option("--gate", is_flag=True, help="Exit 6 where the verdict is FAIL.")
@click.option(
    "--undecided",
    type=click.IntRange(0, 255),
    help="With --gate: the exit code where the verdict is UNDECIDED.  [default: 0]",
)
@as_json
def benchmark(
    run: Path | None,
    runtimes: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    seconds: float,
    overrides: tuple[str, ...],
    gate: bool,
    undecided: int | None,
    json_: bool,
) -> None:
    """Measure the student of RUN (default: the newest finished one) against its teacher, and judge it.

    Where the teacher has no last layer, the student's files are measured against the student in PyTorch.

    \b
    compress benchmark --batch 1 --batch 64 --threads 1
    compress benchmark runs/NAME --runtime ort --gate
    """
    _check_undecided(gate, undecided)
    from compress.runs.folder import finished_run
    from compress.system import console

    found = finished_run(run)
    console.say(f"benchmarking {found.path}")

    from export import benchmark_run
    from export.benchmark import gate as raise_on_fail

    measured = benchmark_run(
        found, runtimes=runtimes, batches=batches, threads=threads, min_seconds=seconds, overrides=overrides
    )
    verdict = measured.verdict
    if json_:
        print_json({**measured.model_dump(mode="json"), "run": str(found.path)})
    for warning in measured.warnings:
        logger.warning(warning)
    console.say(f"{verdict.outcome}  {verdict.recommended or 'nothing to deploy'}   {found.benchmark_file}")
    for name, why in verdict.passed_over.items():
        console.say(f"faster, and not recommended: {name} is {why}")
    if verdict.balanced_top1 is not None:
        console.say(f"balanced top1 {verdict.balanced_top1:.2%}: classes are not equally frequent")
    console.say(f"the page: compress report {found.path}")
    if gate:
        raise_on_fail(verdict)
        if verdict.outcome == "UNDECIDED" and undecided:
            raise SystemExit(undecided)


@click.command()
@click.argument("runs", type=UserPath(), nargs=-1, required=True, metavar="RUN...")
@click.option("--out", type=UserPath(), help="The page. Default: RUN/report.html, or ./report.html.")
@as_json
def report(runs: tuple[Path, ...], out: Path | None, json_: bool) -> None:
    """A page and Markdown of what `compress benchmark` measured of one RUN, or of several side by side."""
    from export import report_runs

    written = [str(path) for path in report_runs(runs, out)]
    if json_:
        print_json(written)
        return
    for path in written:
        click.echo(path)


@click.command()
@click.argument("bundle", type=UserPath())
@click.option("--threads", type=click.IntRange(1), help="For ONNX Runtime. Default: what this process may use.")
def verify(bundle: Path, threads: int | None) -> None:
    """Replay the golden inputs of BUNDLE on this machine: pass, or exit 6."""
    from export.delivery import verify_bundle

    for name, difference in verify_bundle(bundle, threads=threads).items():
        click.echo(f"pass  {name}  its probabilities differ by up to {difference:.2g}")


@click.command()
@click.argument("run", type=UserPath())
@click.argument("repo")
@click.option("--private", is_flag=True, help="Create it as private; one that is public is refused.")
@click.option("--dry-run", is_flag=True, help="Only write RUN/hub. So it is without a token, too.")
@as_json
def push(run: Path, repo: str, private: bool, dry_run: bool, json_: bool) -> None:
    """Put the student of RUN on the Hugging Face Hub as REPO, in timm's format, with a card of what was measured.

    REPO is USER/NAME, or ORGANISATION/NAME. Of the run's export the ONNX files for ONNX Runtime go with it.
    A module that `distill` was given is pushed from Python, by export.push_run.

    \b
    compress push runs/NAME you/cifar100-resnet18 --dry-run
    """
    from compress.runs.folder import finished_run
    from compress.system import console
    from export.delivery import push_run

    outcome = push_run(finished_run(run), repo, private=private, dry_run=dry_run)
    if json_:
        print_json(outcome)
        return
    for name in outcome["files"]:
        click.echo(f"{outcome['folder']}/{name}")
    if outcome["url"]:
        click.echo(outcome["url"])
    else:
        why = "leave --dry-run out" if dry_run else "log in with `hf auth login` or set HF_TOKEN"
        console.say(f"nothing was pushed: to do so, {why}")
