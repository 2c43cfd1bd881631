"""Runs what is missing of a study: teachers, tuning, and the final runs of every setting, each saved when it is there.

In: a Study and its State. Out: finished runs below runs/, and the Outlook on what is left.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean

import torch
from measure import measure
from plan import Study, Values, final_cells, teacher_recipe, tuned_name, tuning_cells
from state import DIVERGED, MEASURES, State, is_done, is_finished

from compress.data import Dataset, load_data
from compress.data.splits import on_device
from compress.recipe import Recipe
from compress.runs.data import as_teacher_sees
from compress.runs.folder import Run, TeacherFolder, read_teacher_record, runs_root, teachers_root
from compress.runs.keys import teacher_hash
from compress.runs.resolve import resolve
from compress.runs.teacher import trained_teacher
from compress.sweeps.cells import Cell, lockstep_groups
from compress.sweeps.local import run_group
from compress.sweeps.run import raise_if_failed
from compress.system import console, files
from compress.system.errors import DivergedError, InputError
from compress.training.metrics import read_metrics

logger = logging.getLogger("compress.study")


@dataclass
class Progress:
    """Where a study stands: the settings of its final runs, and all teachers (folders below runs/teachers)."""

    study: Study
    settings: list[str]
    state: State
    device: torch.device
    teachers: dict[str, Path] = field(default_factory=dict)

    def save(self) -> None:
        self.state.save(self.teachers, (self.study.folder / name for name, _, _ in planned(self)))


@dataclass(frozen=True)
class Tried:
    """A configuration of an arm. top1: on the held-out part after the last epoch, a value for each finished seed."""

    values: Values
    top1: list[float]
    failed: int

    @property
    def mean(self) -> float | None:
        return mean(self.top1) if self.top1 and not self.failed else None


def run_study(progress: Progress) -> None:
    """Raises Interrupted once all that runs is saved in its folder, and a CompressError where anything fails."""
    study = progress.study
    in_tuning = [] if study.tune is None else [study.tune.setting]
    resolved = {
        setting: resolve(teacher_recipe(study, setting), progress.device)
        for setting in dict.fromkeys([*in_tuning, *progress.settings])
    }
    for setting, recipe in resolved.items():
        progress.teachers[setting] = _teacher_of_state(progress, setting) or _teacher_by_hash(recipe)
    for setting in in_tuning:
        _train_teacher(progress, setting, resolved[setting])
        _run_groups(progress, tuning_cells(study, progress.teachers[setting]), measured=False)
    chosen = winners(tuning_results(study))
    for setting in progress.settings:
        _train_teacher(progress, setting, resolved[setting])
        _run_groups(progress, final_cells(study, setting, progress.teachers[setting], chosen), measured=True)


def _teacher_of_state(progress: Progress, setting: str) -> Path | None:
    """The teacher that the runs of a state learned from: where pictures are decoded otherwise, its hash is another."""
    name = progress.state.index.teachers.get(setting)
    return runs_root() / name if name and TeacherFolder(runs_root() / name).trained else None


def _teacher_by_hash(recipe: Recipe) -> Path:
    return teachers_root() / teacher_hash(recipe, _data(recipe))


def _data(recipe: Recipe) -> Dataset:
    """As the teacher sees it."""
    seen, settings = as_teacher_sees(recipe.teacher, recipe.data)
    return load_data(settings, seen)


def _train_teacher(progress: Progress, setting: str, recipe: Recipe) -> None:
    if not TeacherFolder(progress.teachers[setting]).trained:
        dataset = _data(recipe)
        trained_teacher(recipe, dataset, on_device(dataset, progress.device))
    progress.save()


def _run_groups(progress: Progress, cells: Sequence[Cell], *, measured: bool) -> None:
    """A run that diverges is a result. Any other failure is raised: it says nothing about the arm."""
    for group in lockstep_groups([cell for cell in cells if not (cell.folder / DIVERGED).exists()]):
        outcomes = run_group(group, recipe_name=progress.study.name, device=progress.device.type)
        for cell in group:
            if isinstance(outcome := outcomes[cell.name], DivergedError):
                logger.warning(f"{cell.name} failed: {outcome}")
                files.write_json(cell.folder / DIVERGED, {"error": str(outcome)})
            elif measured and isinstance(outcome, Run):
                _refuse_other_teacher(outcome)
                if not (cell.folder / MEASURES).exists():
                    logger.info(f"measuring {cell.name}")
                    files.write_json(cell.folder / MEASURES, measure(outcome, progress.device))
        progress.save()
        raise_if_failed({name: each for name, each in outcomes.items() if not isinstance(each, DivergedError)})


def _refuse_other_teacher(run: Run) -> None:
    """A finished run may have come from elsewhere, and so may a teacher of the same recipe whose bits are others."""
    folder = Path(run.recipe.teacher.checkpoint or "")
    if read_teacher_record(folder).sha256 != run.result.teacher.sha256:
        raise InputError(
            f"{run.path} learned from another teacher than {folder}, of the same recipe",
            "Remove that teacher, and go on with --resume: the state has the one that its runs learned from.",
        )


def tuning_results(study: Study) -> dict[str, list[Tried]]:
    """What every arm tried, in the order of its grid, from the manifests of its runs. Without tuning: what it is."""
    seeds = [] if study.tune is None else study.tune.seeds
    found: dict[str, list[Tried]] = {}
    for arm in study.arms:
        found[arm.name] = []
        for number, values in enumerate(study.grid[arm.name]):
            folders = [study.folder / tuned_name(arm.name, number, seed) for seed in seeds]
            top1 = [Run(folder).result.student_top1 for folder in folders if is_finished(folder)]
            found[arm.name].append(Tried(values, top1, len(folders) - len(top1)))
    return found


def winners(results: dict[str, list[Tried]]) -> dict[str, Values]:
    """The configuration of each arm with the best mean; of equal ones the first, which grids begin with the default.

    A configuration of which a run failed cannot win, unless all did: then the default goes on.
    """
    return {
        arm: max(tried, key=lambda one: -math.inf if one.mean is None else one.mean).values
        for arm, tried in results.items()
    }


def planned(progress: Progress) -> list[tuple[str, str, int]]:
    """Every run: the name of its folder, its setting, and its epochs."""
    study, teacher = progress.study, Path("TEACHER")  # any: names and epochs are the same
    chosen = winners(tuning_results(study))
    cells = [(cell, study.tune.setting) for cell in tuning_cells(study, teacher) if study.tune is not None]
    for setting in progress.settings:
        cells += [(cell, setting) for cell in final_cells(study, setting, teacher, chosen)]
    return [(cell.name, setting, cell.recipe.training.epochs) for cell, setting in cells]


def outlook(progress: Progress) -> str:
    """What is left, and about how long that takes by the epochs so far; "" where nothing is.

    An epoch of a setting that has not begun is taken to cost what those of the others did.
    """
    runs = [("student", setting, progress.study.folder / name, epochs) for name, setting, epochs in planned(progress)]
    teachers = []
    for setting, folder in progress.teachers.items():
        teacher = resolve(teacher_recipe(progress.study, setting), torch.device("cpu")).teacher
        teachers.append(("teacher", setting, folder, teacher.training.epochs))
    seconds: dict[tuple[str, str], list[float]] = {}
    left: list[tuple[str, str, int]] = []
    for phase, setting, folder, epochs in [*teachers, *runs]:
        lines = [line for line in read_metrics(Run(folder).metrics) if line["phase"] == phase]
        seconds.setdefault((phase, setting), []).extend(line["seconds"] for line in lines)
        if not (is_done(folder) or TeacherFolder(folder).trained):
            left.append((phase, setting, epochs - len(lines)))
    if not left:
        return ""
    total = 0.0
    for phase, setting, epochs in left:
        known = seconds[phase, setting] or [value for (of, _), each in seconds.items() if of == phase for value in each]
        total += epochs * mean(known) if known else math.nan
    students, still = sum(phase == "student" for phase, _, _ in left), sum(phase == "teacher" for phase, _, _ in left)
    about = (
        "how long cannot be told yet" if math.isnan(total) else f"about {console.duration(total)} by the epochs so far"
    )
    return f"left: {students} of {len(runs)} runs and {still} of {len(teachers)} teachers, {about}"
