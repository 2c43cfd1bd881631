"""The recipes that come with compress, found by name.

In: a name such as `quickstart`, or a path. Out: the file, or a UsageError with the nearest name.
"""

import difflib
import os
from pathlib import Path

from compress.system.errors import UsageError
from compress.system.paths import user_path

_IN_WHEEL = Path(__file__).parent / "recipes"  # setup.py puts them there
_IN_CHECKOUT = Path(__file__).parents[2] / "recipes"


def recipe_names() -> list[str]:
    """The names of the recipes that come with compress, in alphabetical order."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def packaged_recipe(name: str) -> Path:
    """The file of a recipe that comes with compress.

    Raises:
        UsageError: none has that name.
    """
    if name not in recipe_names():
        raise _unknown(f"no recipe named {name!r}", name)
    return _folder() / f"{name}.yaml"


def find_recipe(recipe: str | Path) -> Path:
    """The file that a user means.

    Args:
        recipe: a path, or a name: one word without a suffix. A name is looked up as NAME.yaml in the working folder,
            then among the recipes that come with compress. A file with exactly the given path comes before both.

    Raises:
        UsageError: there is neither a file nor a recipe of that name.
    """
    path = user_path(recipe)
    exists = os.path.exists(path)  # Path.exists raises where a folder may not be read
    if exists and not path.is_dir():
        return path
    is_name = str(path) == path.stem
    if is_name:
        for folder in (Path(), _folder()):
            if (file := folder / f"{path}.yaml").is_file():
                return file
    if exists:
        return path  # a folder: whoever opens it says so
    raise _unknown(f"no recipe named {str(path)!r}" if is_name else f"no recipe at {path}", path.stem)


def _folder() -> Path:
    return _IN_WHEEL if _IN_WHEEL.is_dir() else _IN_CHECKOUT


def _unknown(message: str, name: str) -> UsageError:
    close = difflib.get_close_matches(name, recipe_names(), n=1)
    return UsageError(message, f"Did you mean {close[0]}?" if close else "`compress recipe list` shows the names.")
