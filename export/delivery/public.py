"""What of a run may leave this machine: its recipe and its sentences, in which no path but its last name stays.

In: a run and its recipe. Out: the recipe for others, and a function for sentences.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from compress.recipe import Data, Model, Recipe
from compress.runs.folder import Run

M = TypeVar("M", bound=Model)
_ROOT = r"(?:~[\w.-]*|[A-Za-z]:|\.\.?|\$\w+)?[/\\]"
_PATH = re.compile(rf"""(?<![\w.:/\\~$-])(?:(?P<quote>['"`]){_ROOT}.+?(?P=quote)|{_ROOT}[^\s'"`,;:()]+)""")
"""A path that begins at a root, at home or at the working folder. Within quotes it may hold spaces."""


def public_recipe(run: Run) -> Recipe:
    """The recipe without the paths of this machine: of weights and tables the name of their file or folder stays."""
    recipe = run.recipe
    others = {
        "ensemble": [_named(member) for member in recipe.teacher.ensemble],
        "assistants": [_named(assistant) for assistant in recipe.teacher.assistants],
    }
    data = recipe.data
    places: dict[str, str] = {}
    if data.name == "csv":
        tables = {"train": data.train, "evaluation": data.evaluation}
        places = {key: last_name(place) for key, place in tables.items() if place is not None}
    if data.repo is not None and hub_repository(run, data) is None:
        places["repo"] = last_name(data.repo)
    return recipe.model_copy(
        update={
            "data": data.anywhere.model_copy(update=places),
            "teacher": _named(recipe.teacher).model_copy(update=others),
            "student": _named(recipe.student),
        }
    )


def hub_repository(run: Run, data: Data) -> str | None:
    """The repository of the Hub that holds the run's data. None where it is a folder, or other data."""
    if data.repo is None or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)?", data.repo) or data.repo.startswith("."):
        return None
    begun = Path(run.manifest.working_folder or ".")
    return None if (begun / data.repo).is_dir() or Path(data.repo).is_dir() else data.repo


def without_places(run: Run) -> Callable[[str], str]:
    """Makes of a sentence one for others: of each path of this machine in it only the last name stays.

    The places that the run names are known whole. Of others a space ends the path, unless it stands in quotes.
    """
    known = _known_places(run)
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    whole = re.compile(rf"(?<![\w.:/\\-])(?:{'|'.join(longest_first) or '(?!)'})(?![\w-])")

    def words(text: str) -> str:
        return _PATH.sub(_shortened, whole.sub(lambda place: known[place.group()], text))

    return words


def _known_places(run: Run) -> dict[str, str]:
    """Places that may hold spaces, and what is written for them: of the data its last name."""
    data, begun = run.recipe.data, run.manifest.working_folder
    folder = None if hub_repository(run, data) else data.repo
    given = [place for place in (data.root, data.unlabeled, folder, os.environ.get("COMPRESS_DATA")) if place]
    expanded = [os.path.expanduser(os.path.expandvars(place)) for place in given]
    absolute = [os.path.abspath(os.path.join(begun, place)) for place in expanded]
    short = {os.path.expanduser("~"): "~", begun: "."}
    short |= {place: last_name(place) for place in (*given, *expanded, *absolute)}
    return {place.rstrip("/\\"): instead for place, instead in short.items() if re.search(r"[/\\]\w", place)}


def last_name(path: str) -> str:
    """Of a path of any system."""
    return re.split(r"[/\\]+", path.rstrip("/\\"))[-1]


def _shortened(path: re.Match[str]) -> str:
    quote = path["quote"] or ""
    return f"{quote}{last_name(path.group().strip(quote) if quote else path.group())}{quote}"


def _named(model: M) -> M:
    paths: dict[str, Any] = {
        key: last_name(value)
        for key in ("checkpoint", "weights", "pretrained")
        if isinstance(value := getattr(model, key, None), str)
    }
    if model.model.startswith("local-dir:"):
        paths["model"] = f"local-dir:{last_name(model.model.removeprefix('local-dir:'))}"
    return model.model_copy(update=paths)
