"""Better supervision against plain distillation, reproducibly: runs a study, and says what came out.

    python tools/study/reproduce.py tools/study/smoke.yaml                                       digits, in seconds
    python tools/study/reproduce.py tools/study/cpu.yaml --budget-minutes 50                     some of it, and then
    python tools/study/reproduce.py tools/study/cpu.yaml --budget-minutes 50 --resume            more, here or elsewhere

Below the current folder runs/ gets the runs and the teachers. What a comparison must be fair is built in: every arm is
tuned with equally many configurations on a part of train that neither students nor teacher are trained on; one teacher
serves a setting, in tuning and after it; runs of one seed share initial weights, batches and augmentation; and the last
epoch counts. tools/README.md says more.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from plan import load_study
from results import write_results
from run import Progress, outlook, run_study
from state import State, refuse_existing

from compress.cli.main import run_command
from compress.runs.arguments import torch_device
from compress.runs.folder import runs_root
from compress.runs.locks import held
from compress.system import console, files
from compress.system.errors import Interrupted, UsageError
from compress.system.interrupts import deferred
from compress.system.platform import signal_self

logger = logging.getLogger("compress.study")


class Budget:
    """over: whether the time was up, and not somebody's signal."""

    over = False


@contextmanager
def limited(minutes: float | None) -> Iterator[Budget]:
    """After so many minutes everything stops and saves itself as on SIGTERM."""
    budget = Budget()

    def stop() -> None:
        budget.over = True
        signal_self(signal.SIGTERM)

    timer = threading.Timer(0 if minutes is None else 60 * minutes, stop)
    timer.daemon = True
    if minutes is not None:
        timer.start()
    try:
        yield budget
    finally:
        timer.cancel()


@click.command()
@click.argument("study_file", metavar="STUDY", type=click.Path(path_type=Path))
@click.option("--setting", "settings", multiple=True, help="Only this one of the study's. Can be given several times.")
@click.option("--budget-minutes", type=click.FloatRange(0, min_open=True), help="Then save everything and stop.")
@click.option("--resume", is_flag=True, help="Go on from the state folder.")
@click.option("--state", type=click.Path(path_type=Path), help="Default: runs/NAME-state.")
@click.option("--out", type=click.Path(path_type=Path), help="For the results. Default: runs/NAME-results.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
def main(
    study_file: Path,
    settings: tuple[str, ...],
    budget_minutes: float | None,
    resume: bool,
    state: Path | None,
    out: Path | None,
    device: str,
) -> None:
    """Run what is missing of STUDY, and write its results once nothing is."""
    console.show_log()
    study = load_study(study_file)
    if strange := set(settings) - set(study.settings):
        raise UsageError(f"no setting {min(strange)}", f"Those of {study.name} are {', '.join(study.settings)}.")
    folder = state or runs_root() / f"{study.name}-state"
    if not resume:
        refuse_existing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    with held(folder), limited(budget_minutes) as budget:
        kept = State(folder, study.name, study.sha256)
        kept.restore()
        chosen = [name for name in study.settings if not settings or name in settings]
        progress = Progress(study, chosen if study.seeds else [], kept, torch_device(device))
        try:
            run_study(progress)
        except Interrupted:
            with deferred():
                progress.save()
            if budget.over:
                logger.info(f"the budget is spent and everything saved in {folder}: go on with --resume")
                logger.info(outlook(progress) or "left: what is looked at in finished students, and the results")
                return
            raise
    if still := outlook(progress):
        logger.warning(still)
    for path in write_results(progress, study_file, out or runs_root() / f"{study.name}-results"):
        logger.info(f"wrote {path}")


if __name__ == "__main__":
    run_command(main, "reproduce.py", "Everything is saved: go on with --resume.")
