"""Relative places in a recipe, which are those of the folder where its run was begun.

In: a run and its recipe. Out: the recipe with places that hold wherever one works now.
"""

from pathlib import Path
from typing import Any, TypeVar

from compress.data.sources import find, is_there
from compress.recipe import Data, Model, Recipe, Student
from compress.runs.folder import Run
from compress.system.paths import user_path

M = TypeVar("M", bound=Model)
_LOCAL = "local-dir:"


def found_again(run: Run, recipe: Recipe) -> Recipe:
    """The recipe, with relative places of data and weights as in the folder where the run was begun, if they are there.

    Raises:
        InputError: it is not plain which folder of the data is to train on.
    """
    begun = _elsewhere(run)
    if begun is None:
        return recipe
    teacher = _model_in(begun, recipe.teacher)
    beside = {
        "ensemble": [_model_in(begun, member) for member in teacher.ensemble],
        "assistants": [_model_in(begun, assistant) for assistant in teacher.assistants],
    }
    return recipe.model_copy(
        update={
            "data": _data_in(begun, recipe.data),
            "teacher": teacher.model_copy(update=beside),
            "student": _model_in(begun, recipe.student),
        }
    )


def data_found_again(run: Run, data: Data) -> Data:
    """The same for a data section alone."""
    begun = _elsewhere(run)
    return data if begun is None else _data_in(begun, data)


def _elsewhere(run: Run) -> Path | None:
    """The folder where the run was begun. None where one works in it."""
    begun = run.manifest.working_folder
    return None if not begun or Path(begun) == Path.cwd() else Path(begun)


def _data_in(begun: Path, data: Data) -> Data:
    changes: dict[str, str] = {}
    if data.unlabeled is not None:
        changes["unlabeled"] = _place_in(begun, data.unlabeled)
    if data.repo is not None:
        changes["repo"] = _place_in(begun, data.repo)
    if data.root is not None or find(data.name, None) is None:
        root = str(begun / user_path(data.root or "data"))
        if is_there(data.model_copy(update={"root": root})):
            changes["root"] = root
    return data.model_copy(update=changes)


def _model_in(begun: Path, settings: M) -> M:
    changes: dict[str, Any] = {}
    if settings.model.startswith(_LOCAL):
        changes["model"] = _LOCAL + _place_in(begun, settings.model.removeprefix(_LOCAL))
    keys = ("pretrained",) if isinstance(settings, Student) else ("weights", "checkpoint")
    for key in keys:
        if isinstance(place := getattr(settings, key), str):
            changes[key] = _place_in(begun, place)
    return settings.model_copy(update=changes)


def _place_in(begun: Path, place: str) -> str:
    """The place below that folder, if it is relative and there is something."""
    path = user_path(place)
    return str(begun / path) if not path.is_absolute() and (begun / path).exists() else place
