"""What commands print: JSON on stdout if --json is given."""

import json
from typing import Any

import click

as_json = click.option("--json", "json_", is_flag=True, help="Print the result on stdout as JSON.")


def print_json(content: Any) -> None:
    """Prints JSON on stdout, with an indent of two."""
    click.echo(json.dumps(content, indent=2, ensure_ascii=False))
