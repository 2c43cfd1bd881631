"""Paths as people give them, in recipes, arguments and environment variables.

In: text with `~` or variables such as $HOME, which no shell expanded. Out: a path.
"""

import os
import re
from pathlib import Path

from compress.system.errors import UsageError


def user_path(given: str | Path) -> Path:
    """The path with `~` and variables expanded. What exists with a $ in its name is taken as it is.

    Raises:
        UsageError: it names a variable that is not set, or a home folder that is not known.
    """
    text = os.fspath(given)
    if not text.startswith("~") and ("$" not in text or os.path.lexists(text)):
        return Path(text)
    expanded = os.path.expanduser(os.path.expandvars(text))
    if unset := re.search(r"\$(\w+|\{\w+\})", expanded):
        raise UsageError(f"{text!r} names the variable {unset[0]}, which is not set", "Set it, or write the path out.")
    if expanded.startswith("~"):
        raise UsageError(f"the home folder in {text!r} is not known", "Set $HOME, or write the path out.")
    return Path(expanded)
