"""A sweep from its cells to what became of each."""

import logging
from collections.abc import Sequence
from typing import Any, Literal

from compress.runs import Run
from compress.runs.resume import refuse_other_recipe
from compress.sweeps.cells import Cell, lockstep_groups
from compress.sweeps.local import run_group, run_here
from compress.sweeps.lockstep import Outcome
from compress.system.errors import CompressError

logger = logging.getLogger(__name__)


def sweep(
    cells: Sequence[Cell], *, recipe_name: str, device: str = "auto", engine: Literal["local", "ray"] = "local"
) -> dict[str, Outcome]:
    """Runs what is not finished yet, from where it stands, and returns what became of each, by name.

    engine: one group after another in this process, or as tasks of a Ray cluster.
    Raises UsageError, before anything runs, where a run was begun with another recipe, and Interrupted after a signal,
    once all that runs is saved.
    """
    for cell in cells:
        if Run(cell.folder).manifest_file.exists():
            refuse_other_recipe(Run(cell.folder), cell.recipe)
    groups = lockstep_groups(cells)
    if engine == "ray":
        from compress.sweeps.ray import run_on_ray

        found_by_group = run_on_ray(groups, run_group, recipe_name=recipe_name, device=device)
    else:
        found_by_group = run_here(groups, recipe_name=recipe_name, device=device)
    outcomes: dict[str, Outcome] = {}
    for found in found_by_group:
        for name, outcome in found.items():
            if isinstance(outcome, CompressError):
                logger.warning(f"{name} failed: {outcome}")
        outcomes |= found
    return outcomes


def results(cells: Sequence[Cell], outcomes: dict[str, Outcome]) -> list[dict[str, Any]]:
    """A row for each cell: its name, arm, seed, run and status, what it measured, or the error that ended it."""
    rows = []
    for cell in cells:
        outcome = outcomes.get(cell.name)
        row: dict[str, Any] = {"name": cell.name, "arm": cell.arm, "seed": cell.seed, "run": str(cell.folder)}
        if isinstance(outcome, Run):
            manifest = outcome.result
            row |= {
                "status": "finished",
                "student_top1": manifest.student_top1,
                "teacher_top1": manifest.teacher_top1,
                "student_sha256": manifest.student_sha256,
                "teacher_sha256": manifest.teacher.sha256,
                "data": manifest.data.model_dump(include={"name", "eval_split", "eval_images"}),
            }
        else:
            row |= {"status": "failed", "error": str(outcome)}
        rows.append(row)
    return rows


def raise_if_failed(outcomes: dict[str, Outcome]) -> None:
    """Raises the error of the first run that failed, saying how many did."""
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, CompressError)}
    for name, error in failed.items():
        message = f"{len(failed)} of {len(outcomes)} runs failed; {name}: {error.message}"
        raise type(error)(message, f"{error.hint} The same command tries them again.") from error
