"""Paths on the command line."""

from pathlib import Path
from typing import Any

import click

from compress.system.paths import user_path


class UserPath(click.Path):
    """A path. Shells leave the `~` of --out=~/runs as it is, and nobody expands what a program hands over."""

    def __init__(self, *, dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, dir_okay=dir_okay)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, expanded. Raises UsageError as `user_path` does."""
        return super().convert(user_path(value), param, ctx)
