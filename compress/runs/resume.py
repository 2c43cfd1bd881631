"""Which run a command goes on with, or a new one, and its recipe with nothing left open."""

from pathlib import Path
from typing import Literal

import torch

from compress.data import Dataset, load_data, resolve_augment
from compress.data.sources import LAYOUTS
from compress.distributed.world import current, processes
from compress.recipe import Recipe, changed_keys
from compress.recipe.methods import default_alpha
from compress.runs import folder as run_folder
from compress.runs.folder import Run
from compress.runs.teacher import FINE_TUNING, HOUSEKEEPING
from compress.system import console
from compress.system.errors import CompressError, InputError, UsageError
from compress.training.checkpoint import has_checkpoints, newest_checkpoint

_FREE_TO_CHANGE = {"data.root", *(f"train.{key}" for key in HOUSEKEEPING)}
_EXTENSIONS = {"train.epochs", *(f"train.{key}" for key in FINE_TUNING)}


def open_run(
    given: Recipe, name: str, out: Path | None, resume: bool, device: torch.device, *, extend: bool = True
) -> tuple[Run, Recipe, bool]:
    """The run, the recipe with nothing left open, and whether there is work to do.

    name, out, resume: as distill has them. extend: whether a run may go on for longer than it was begun for.
    Raises UsageError where the recipe is not that of the run to go on with, InputError where that run cannot go on,
    MachineError where a new one finds its folder in use.
    """
    size = current().size
    if given.teacher.cache is not None and size > 1:
        raise UsageError(f"teacher.cache is for one process, and here are {size}", "Leave it out, or start one.")
    old = _run_to_resume(given, name, out, device) if resume else None
    if old is None:
        resolved = resolve(given, device)
        return run_folder.new_run(resolved, name, out), resolved, True
    before = old.recipe
    resolved = resolve(given, device, like=before)
    changed = _changed(before, resolved)
    finished = old.manifest["status"] == "finished"
    extends = extend and set(changed) <= _EXTENSIONS and resolved.train.epochs >= before.train.epochs
    if changed and not extends:
        if not _has_begun(old):
            return old if out is not None else run_folder.new_run(resolved, name, out), resolved, True
        raise _other_recipe(old, changed, extend=extend)
    begun_by = old.manifest.get("processes", 1)
    if (changed or not finished) and begun_by != size and has_checkpoints(old.checkpoints):
        raise UsageError(
            f"{old.path} was begun by {processes(begun_by)}, and here are {size}",
            f"Go on with {processes(begun_by)}, or start a new run without --resume, in another folder.",
        )
    if finished and resolved.data.root != before.data.root:
        _check_data_of_finished(old, load_data(resolved.data, say=console.say))
    if finished and changed and newest_checkpoint(old.checkpoints, warn=console.warn) is None:
        raise InputError(f"the checkpoints of {old.path} were removed, so it cannot go on", "Start a new run.")
    return old, resolved, not finished or bool(changed)


def refuse_other_recipe(run: Run, given: Recipe) -> None:
    """Raises UsageError where a run that is to be compared was begun with another recipe, or for fewer epochs.

    A damaged one is left to its own opening.
    """
    try:
        before, begun = run.recipe, _has_begun(run)
    except CompressError:
        return
    changed = _changed(before, resolve(given, torch.device("cpu"), like=before))
    if changed and begun:
        raise _other_recipe(run, changed, extend=False)


def _changed(before: Recipe, resolved: Recipe) -> list[str]:
    return [key for key in changed_keys(before, resolved) if key not in _FREE_TO_CHANGE]


def _has_begun(run: Run) -> bool:
    return "student_sha256" in run.manifest or has_checkpoints(run.checkpoints)


def _other_recipe(run: Run, changed: list[str], *, extend: bool) -> UsageError:
    return UsageError(
        f"the recipe differs from that of {run.path} in {', '.join(changed)}",
        "Undo that, or start a new run without --resume (train.epochs may be raised, train.quantize be changed)."
        if extend
        else "Runs that are compared are not extended: undo that, or have them in another folder.",
    )


def _check_data_of_finished(run: Run, dataset: Dataset) -> None:
    if dataset.sha256 != run.manifest["data"]["sha256"]:
        raise InputError(
            f"{run.path} was trained on other {dataset.name} data than is here",
            "Point data.root to that data, or start a new run.",
        )


def _run_to_resume(given: Recipe, name: str, out: Path | None, device: torch.device) -> Run | None:
    if out is not None:
        return Run(out) if (out / run_folder.MANIFEST).exists() else None
    unfinished = [run for run in run_folder.all_runs() if _is_unfinished(run, name)]
    same = [run for run in unfinished if not changed_keys(run.recipe, resolve(given, device, like=run.recipe))]
    return (same or unfinished or [None])[-1]


def _is_unfinished(run: Run, name: str) -> bool:
    manifest = run.manifest
    return (
        manifest.get("recipe") == name and manifest["status"] != "finished" and (run.path / run_folder.RECIPE).exists()
    )


def resolve(given: Recipe, device: torch.device, like: Recipe | None = None) -> Recipe:
    """Fills in what the recipe leaves open, so that recipe.yaml says all; what it leaves open stays that of `like`."""
    size = given.data.image_size or LAYOUTS[given.data.name].image_size
    epochs = given.teacher.epochs
    if epochs is None:
        epochs = like.teacher.epochs if like is not None else given.train.epochs
    members = [member.model_copy(update={"epochs": member.epochs or epochs}) for member in given.teacher.ensemble]
    method = given.supervision.method
    alpha = given.supervision.alpha
    if alpha is None and method != "ce":
        alpha = default_alpha(method)
    precision = given.train.precision
    if precision == "auto":
        precision = like.train.precision if like is not None else fast_precision(device)
    return given.model_copy(
        update={
            "train": given.train.model_copy(update={"precision": precision}),
            "data": given.data.model_copy(update={"image_size": size, "augment": resolve_augment(given.data)}),
            "teacher": given.teacher.model_copy(update={"epochs": epochs, "ensemble": members}),
            "supervision": given.supervision.model_copy(update={"alpha": alpha}),
        }
    )


def fast_precision(device: torch.device) -> Literal["bf16", "fp32"]:
    """On CPUs without AMX bf16 was slower than fp32 with every model tried, up to 2.1 times (recipes/README.md)."""
    return "bf16" if device.type == "cuda" or torch.cpu._is_amx_tile_supported() else "fp32"
