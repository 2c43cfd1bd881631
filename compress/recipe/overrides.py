"""Sets single values of a recipe by their dotted keys.

In: plain data and SECTION.KEY=VALUE. Out: the data, changed in place.
"""

import re
from typing import Any

from compress.recipe.strict_yaml import parse_yaml
from compress.system.errors import UsageError

_PLAIN = re.compile(r"\s#|:(\s|$)")
"""What begins a comment or a mapping in YAML, and is mere text on a command line."""
_NAMED = (["teacher", "ensemble"], ["teacher", "assistants"])
"""Lists whose entries may be a name alone."""
_NOT_PLAIN = tuple("[{\"'&*!|>%@`#")


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Sets the value of "section.key=value" in place, as --set does.

    The value is YAML. Without quotes or brackets it ends with the text, also where it holds ` #` or `: `, as paths do.

    Raises:
        UsageError: the text is not KEY=VALUE, the value is not YAML, or the key leads nowhere.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set {override!r} is not KEY=VALUE", "For example: --set train.epochs=10.")
    plain = _PLAIN.search(text) and text.lstrip()[:1] not in _NOT_PLAIN
    value = text.strip() if plain else parse_yaml(text, f"--set {key}")
    assign(raw, key.strip().split("."), value, f"--set {key}")


def assign(raw: dict[str, Any], path: list[str], value: Any, source: str) -> None:
    """Sets raw[a][b] = value for the path [a, b], in place. Entries of a list are numbers, from 0.

    Args:
        source: names the setting in error messages.

    Raises:
        UsageError: a is no section, or a list without the entry b.
    """
    place: Any = raw
    for number, part in enumerate(path[:-1]):
        key = _key(place, part, path[:number], source)
        if isinstance(place, dict) and place.get(key) is None:  # not set
            place[key] = {}
        elif isinstance(place[key], str) and path[:number] in _NAMED:
            place[key] = {"model": place[key]}
        place = place[key]
    place[_key(place, path[-1], path[:-1], source)] = value


def _key(place: Any, part: str, path: list[str], source: str) -> Any:
    where = ".".join(path)
    if isinstance(place, dict):
        return part
    if not isinstance(place, list):
        raise UsageError(f"{source}: {where} is not a section")
    if part.isdecimal() and int(part) < len(place):
        return int(part)
    raise UsageError(f"{source}: {where} has no entry {part!r}", f"Its length is {len(place)}, counted from 0.")
