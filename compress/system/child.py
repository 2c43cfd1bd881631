"""Starts a module of this project in a Python of its own."""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[2])


def module_command(name: str) -> list[str]:
    """The command that runs a module, as `python -m NAME` does. Arguments of the module may follow.

    The working folder is left out of the search for modules (-P), since it may hold a random.py of the user. This
    project is found also where it is not installed.
    """
    run = f"import runpy, sys; sys.path.append({_ROOT!r}); runpy.run_module({name!r}, None, '__main__', alter_sys=True)"
    return [sys.executable, "-P", "-c", run]
