"""Runs a sweep.

In: cells. Out: for each cell a Run or an error, and a row of the table.
"""

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
    """Runs all cells that are not finished, from where they stand.

    Args:
        recipe_name: recorded in the manifests.
        device: auto, cpu or cuda.
        engine: `local` runs one group after another in this process, `ray` runs groups as tasks of a Ray cluster.

    Returns:
        The outcome of each run, by name.

    Raises:
        UsageError: a run was begun with another recipe. Nothing has run then.
        Interrupted: a signal arrived. Every run that had begun is saved.
        MachineError: Ray is not installed, or its cluster does not answer.
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
    """A row for each cell: name, arm, seed, run and status, with its results or the error that ended it.

    Accuracies are fractions.
    """
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
    """Raises the error of the first failed run. Its message says how many failed."""
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, CompressError)}
    for name, error in failed.items():
        message = f"{len(failed)} of {len(outcomes)} runs failed; {name}: {error.message}"
        raise type(error)(message, f"{error.hint} The same command tries them again.") from error
