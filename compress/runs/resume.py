"""Chooses the run of a command: a new one, or one to continue.

In: a recipe and the command's options. Out: the run, its resolved recipe, and whether there is work to do.
"""

import logging
from pathlib import Path
from typing import TypeVar

import torch

from compress.distributed.world import current, processes
from compress.recipe import BenchmarkLimits, Export, Member, Recipe, Train, changed_keys
from compress.recipe.train import FINE_TUNING, HOUSEKEEPING
from compress.runs.data import data_of_student
from compress.runs.folder import Run, all_runs, new_run
from compress.runs.locks import held, is_held
from compress.runs.resolve import resolve
from compress.system.errors import CompressError, InputError, UsageError
from compress.training.checkpoint import has_checkpoints, newest_checkpoint

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Member)
_EXTENSIONS = {"train.epochs", *(f"train.{key}" for key in FINE_TUNING)}


def open_run(
    given: Recipe, name: str, out: Path | None, resume: bool, device: torch.device, *, extend: bool = True
) -> tuple[Run, Recipe, bool]:
    """The run that `distill` works on.

    Args:
        given: the recipe as the user gave it.
        name: the first part of a new run folder's name.
        out: the run folder, if the user chose one.
        resume: whether to continue a run.
        extend: whether a run may continue beyond the epochs that it began with.

    Returns:
        The run, the resolved recipe, and whether there is work to do.

    Raises:
        UsageError: the recipe or the number of processes is not that of the run to continue.
        InputError: that run cannot continue.
        MachineError: the folder of a new run is in use or not empty.
    """
    size = current().size
    if given.teacher.cache is not None and size > 1:
        raise UsageError(f"teacher.cache is for one process, and here are {size}", "Leave it out, or start one.")
    old = _run_to_resume(given, name, out, device) if resume else None
    if old is None:
        resolved = resolve(given, device)
        return new_run(resolved, name, out), resolved, True
    before = resolve(old.recipe, device, like=old.recipe)  # a run of an earlier version lacks newer settings
    resolved = resolve(given, device, like=before)
    changed = _changed(before, resolved)
    finished = old.manifest.finished
    extends = extend and set(changed) <= _EXTENSIONS and resolved.training.epochs >= before.training.epochs
    if changed and not extends:
        if not _has_begun(old):
            return old if out is not None else new_run(resolved, name, out), resolved, True
        raise _other_recipe(old, changed, extend=extend)
    begun_by = old.manifest.processes
    if (changed or not finished) and begun_by != size and has_checkpoints(old.checkpoints):
        raise UsageError(
            f"{old.path} was begun by {processes(begun_by)}, and here are {size}",
            f"Go on with {processes(begun_by)}, or start a new run without --resume, in another folder.",
        )
    if finished and resolved.data.root != before.data.root:
        data_of_student(old, resolved.data)
    if finished and changed and newest_checkpoint(old.checkpoints) is None:
        raise InputError(f"the checkpoints of {old.path} were removed, so it cannot go on", "Start a new run.")
    if finished and not changed:
        _take_limits(old, resolved)
    return old, resolved, not finished or bool(changed)


def refuse_other_recipe(run: Run, given: Recipe) -> None:
    """Checks a run that a sweep is about to compare. A damaged run is left to `open_run`.

    Raises:
        UsageError: the run began with another recipe or for another number of epochs.
    """
    try:
        recorded, begun = run.recipe, _has_begun(run)
    except CompressError:
        return
    cpu = torch.device("cpu")
    before = resolve(recorded, cpu, like=recorded)
    changed = _changed(before, resolve(given, cpu, like=before))
    if changed and begun:
        raise _other_recipe(run, changed, extend=False)


def _take_limits(run: Run, resolved: Recipe) -> None:
    """Gives a finished run what its recipe now says of export and benchmark, on which its training does not depend."""
    recorded = run.recipe
    taken = recorded.model_copy(update={"export": resolved.export, "benchmark": resolved.benchmark})
    if taken == recorded:
        return
    with held(run.path):
        run.write_recipe(taken)
        run.update({"recipe_sha256": taken.sha256})
    logger.info(f"{run.path} is finished, and takes the settings of export and benchmark")


def _changed(before: Recipe, resolved: Recipe) -> list[str]:
    return changed_keys(_without_free_keys(before), _without_free_keys(resolved))


def _without_free_keys(recipe: Recipe) -> Recipe:
    """The recipe with defaults for every setting that may change while a run goes on. Training reads none of them."""
    housekeeping = {key: Train.model_fields[key].default for key in HOUSEKEEPING}

    def plain(member: M) -> M:
        train = None if member.train is None else member.train.model_copy(update=housekeeping)
        return member.model_copy(update={"train": train})

    teacher = plain(recipe.teacher).model_copy(update={"ensemble": [*map(plain, recipe.teacher.ensemble)]})
    return recipe.model_copy(
        update={
            "data": recipe.data.anywhere,
            "teacher": teacher,
            "train": recipe.train.model_copy(update=housekeeping),
            "export": Export(),
            "benchmark": BenchmarkLimits(),
        }
    )


def _has_begun(run: Run) -> bool:
    return run.manifest.student_sha256 is not None or has_checkpoints(run.checkpoints)


def _other_recipe(run: Run, changed: list[str], *, extend: bool) -> UsageError:
    return UsageError(
        f"the recipe differs from that of {run.path} in {', '.join(changed)}",
        "Undo that, or start a new run without --resume (train.epochs may be raised, train.quantize be changed)."
        if extend
        else "Runs that are compared are not extended: undo that, or have them in another folder.",
    )


def _run_to_resume(given: Recipe, name: str, out: Path | None, device: torch.device) -> Run | None:
    if out is not None:
        return Run(out) if Run(out).manifest_file.exists() else None
    unfinished = [(run, recorded) for run in all_runs() if (recorded := _of_unfinished(run, name)) is not None]
    same = [run for run, recorded in unfinished if _goes_on(recorded, given, device, extended=False)]
    extended = [run for run, recorded in unfinished if _goes_on(recorded, given, device, extended=True)]
    chosen = same or extended
    free = [run for run in chosen if not is_held(run.path)]
    others = [run for run, _ in unfinished if not is_held(run.path)]
    return (free or chosen or others or [None])[-1]


def _goes_on(recorded: Recipe, given: Recipe, device: torch.device, *, extended: bool) -> bool:
    """Whether a run is of the recipe that is given, or is `extended` by it."""
    try:
        before = resolve(recorded, device, like=recorded)
        resolved = resolve(given, device, like=before)
    except UsageError:  # what is open in one does not fit the other
        return False
    changed = _changed(before, resolved)
    if not extended:
        return not changed
    return set(changed) <= _EXTENSIONS and resolved.training.epochs >= before.training.epochs


def _of_unfinished(run: Run, name: str) -> Recipe | None:
    """Its recipe. None where the run is finished, of another name, or cannot be read."""
    try:
        manifest = run.manifest
        unfinished = manifest.recipe == name and not manifest.finished and run.recipe_file.exists()
        return run.recipe if unfinished else None
    except (CompressError, OSError):
        return None
