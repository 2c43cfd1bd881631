"""Runs the groups of a sweep in this process.

In: groups of cells. Out: a Run or an error for each cell.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from compress.runs import distill_in_steps, finished_run
from compress.sweeps.cells import Cell
from compress.sweeps.lockstep import Outcome, run_in_lockstep
from compress.system.errors import InputError
from compress.training.memo import Memo

logger = logging.getLogger(__name__)


def run_here(groups: Sequence[Sequence[Cell]], *, recipe_name: str, device: str) -> Iterator[dict[str, Outcome]]:
    """Runs one group after another.

    Yields:
        The outcome of each run of a group, by name.

    Raises:
        Interrupted: a signal arrived. Every run that had begun is saved.
    """
    for group in groups:
        yield run_group(group, recipe_name=recipe_name, device=device)


def run_group(group: Sequence[Cell], *, recipe_name: str, device: str) -> dict[str, Outcome]:
    """Runs the cells of one group in lockstep. Finished runs are not run again.

    Args:
        recipe_name: recorded in the manifest.
        device: auto, cpu or cuda.

    Returns:
        The outcome of each run, by name.

    Raises:
        Interrupted: a signal arrived. Every run that had begun is saved.
    """
    left = [cell.name for cell in group if not _is_finished(cell.folder)]
    if left:
        logger.info(f"{'in lockstep' if len(left) > 1 else 'alone'}: {', '.join(left)}")
    for cell in group:
        if cell.name not in left:
            logger.info(f"finished before: {cell.name}")
    memo = Memo()
    runs = {
        cell.name: distill_in_steps(
            cell.recipe,
            name=recipe_name,
            out=cell.folder,
            resume=True,
            device=device,
            memo=memo,
            extend=False,
            label=f"{cell.arm}-s{cell.seed}: " if len(group) > 1 else "",
        )
        for cell in group
    }
    return run_in_lockstep(runs)


def _is_finished(folder: Path) -> bool:
    try:
        finished_run(folder)
    except InputError:
        return False
    return True
