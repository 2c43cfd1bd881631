"""The commands, which compress.cli puts together. Heavy imports happen inside them, so that --help answers at once."""

import json
from typing import Any

import click

as_json = click.option("--json", "json_", is_flag=True, help="Print the result on stdout as JSON.")


def print_json(content: Any) -> None:
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))
