"""The page of all settings, recipes/settings.md, made from the schema.

In: the schema of a recipe. Out: Markdown, as `python -m compress.recipe.reference > recipes/settings.md` writes it.
"""

import json
from collections.abc import Iterator
from typing import Any

from compress.recipe.load import recipe_schema
from compress.recipe.supervision import TERMS, BaseTerm

_HEAD = """\
# Settings

Every key of a recipe. `python -m compress.recipe.reference > recipes/settings.md` writes this page from the schema.

- A recipe needs `data`, `teacher` and `student`. Every other key has a default.
- A key that is not on this page is an error, which names the nearest one.
- `--set KEY=VALUE` overrides a key: `--set train.epochs=10`. Entries of a list go by number, from 0:
  `--set supervision.terms.0.weight=30`. Text without quotes or brackets is taken whole, also with ` #` or `: ` in it.
- A path may begin with `~` or hold a variable, such as `$HOME/photos`. A relative one is below the working folder.
- Each key stands below its section: `crop` of `data.augment` is `data: {augment: {crop: 4}}`.
- `null` means that the key is not set.
"""
_TABLE = "| key | type | default | what it does |\n|---|---|---|---|"
_TERMS_HEAD = """\
## A term of supervision.terms

`terms` is a list. `name` says which loss an entry is, and each loss has keys of its own beside those of every term.
[supervision.md](supervision.md) says which to choose, and with which weight.

### Every term
"""
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_NAMES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "object": "mapping"}


def settings_page() -> str:
    """The Markdown of recipes/settings.md: a table of key, type, default and description for each section."""
    schema = recipe_schema()
    parts = [_HEAD]
    for section, reference in schema["properties"].items():
        parts += _section(f"## {section}", section, _resolved(reference, schema), schema)
    parts += _terms(schema)
    return "\n".join(parts)


def _section(title: str, path: str, section: dict[str, Any], schema: dict[str, Any]) -> list[str]:
    """The heading and the table of a section, then those of the sections inside it."""
    properties, required = section["properties"], section.get("required", ())
    parts = [title, "", *_introduction(section), _TABLE]
    parts += [_row(key, value, required=key in required) for key, value in properties.items()]
    parts.append("")
    for key, value in properties.items():
        if path == "teacher" and key == "train":
            parts += [f"### {path}.{key}", "", "The keys of [train](#train), apart from `seed` and `quantize...`.", ""]
        elif "properties" in (inside := _resolved(value, schema)):
            parts += _section(f"### {path}.{key}", f"{path}.{key}", inside, schema)
    return parts


def _terms(schema: dict[str, Any]) -> Iterator[str]:
    common = BaseTerm.model_fields.keys()
    classes = {name: schema["$defs"][kind.__name__] for name, kind in TERMS.items()}
    every = next(iter(classes.values()))["properties"]
    yield _TERMS_HEAD
    yield _TABLE
    yield f"| `name` | {', '.join(f'`{name}`' for name in TERMS)} | needed | Which loss it is. |"
    for key in common:
        yield _row(key, every[key])
    yield ""
    yield from _section("### schedule", "schedule", schema["$defs"]["Schedule"], schema)
    for name, kind in classes.items():
        own = {key: value for key, value in kind["properties"].items() if key not in {"name", *common}}
        yield from _section(f"### {name}", name, {**kind, "properties": own}, schema)


def _introduction(section: dict[str, Any]) -> list[str]:
    return [" ".join(section["description"].split()), ""] if "description" in section else []


def _row(key: str, value: dict[str, Any], *, required: bool = False) -> str:
    default = "needed" if required else _default(value)
    cells = (f"`{key}`", _type(value), default, value.get("description", ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(value: dict[str, Any]) -> str:
    """As JSON; nothing for a section, whose keys have defaults of their own."""
    return f"`{json.dumps(value['default'])}`" if "default" in value and "$ref" not in value else ""


def _type(value: dict[str, Any]) -> str:
    """In words, as in "number, at least 0"."""
    if "$ref" in value:
        return "section"
    if "discriminator" in value:
        return "term"
    if "anyOf" in value:
        kinds = [_type(one) for one in value["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{one}`" for one in value.get("enum", [value.get("const")]))
    if value["type"] == "array":
        return f"list of {_type(value['items'])}"
    bounds = [f"{word} {value[bound]:,}" for bound, word in _BOUNDS.items() if bound in value]
    return ", ".join([_NAMES[value["type"]], *bounds])


def _resolved(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference means; in `X or null` it is X that is meant."""
    for one in (value, *value.get("anyOf", ())):
        if "$ref" in one:
            return schema["$defs"][one["$ref"].rsplit("/", 1)[-1]]
    return value


if __name__ == "__main__":
    print(settings_page(), end="")
