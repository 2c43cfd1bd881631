"""recipes/settings.md, the page of all settings, against the schema that it is made from."""

import re
import subprocess
import sys

from compress.recipe import recipe_schema
from compress.recipe.reference import settings_page
from tests.helpers.paths import ROOT

PAGE = (ROOT / "recipes" / "settings.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "compress.recipe.reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert printed == settings_page()
    assert printed == PAGE, "write it anew: python -m compress.recipe.reference > recipes/settings.md"


def test_every_key_has_a_row_with_a_type_and_a_description() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.*?) \| (.*) \|$", PAGE, re.M)
    assert all(kind and text for _, kind, _, text in rows), [row for row in rows if not (row[1] and row[3])]
    schema = recipe_schema()
    keys = {key for section in schema["$defs"].values() for key in section["properties"]}
    assert {key for key, *_ in rows} == keys


def test_defaults_are_those_that_the_schema_names() -> None:
    assert "| `batch_size` | integer, at least 1, at most 1,000,000 | `128` |" in PAGE
    assert "| `cache` | section | `null` |" in PAGE
    assert re.search(r"^\| `views` \| .* \| needed \|", PAGE, re.M)
