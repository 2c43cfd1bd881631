"""Loads recipes from YAML, strictly.

In: a file. Out: a validated Recipe, or a UsageError that names the wrong key and the nearest right one.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from compress.recipe.library import find_recipe
from compress.recipe.overrides import apply_override, assign
from compress.recipe.schema import Recipe
from compress.recipe.strict_yaml import MAX_DEPTH, dump_yaml, is_deep, parse_yaml
from compress.recipe.supervision import TERMS
from compress.system.arguments import require_type
from compress.system.errors import InputError, UsageError

MAX_RECIPE_BYTES = 64 * 1024


def load_recipe(path: str | Path, *, method: str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: a file, or the name of a recipe that comes with compress.
        method: replaces supervision.method.
        overrides: "section.key=value" with a YAML value, as for --set.

    Raises:
        UsageError: the recipe or an override is wrong, or there is no such recipe (exit code 2).
        InputError: the file cannot be read (exit code 3).
    """
    require_type(path, (str, Path), "load_recipe: path")
    require_type(method, (str, type(None)), "load_recipe: method")
    require_type(overrides, (list, tuple), "load_recipe: overrides", 'For example ["train.epochs=10"].')
    for override in overrides:
        require_type(override, str, "load_recipe: overrides: an entry", 'For example "train.epochs=10".')
    path = find_recipe(path)
    try:
        with path.open("rb") as file:
            raw_bytes = file.read(MAX_RECIPE_BYTES + 1)
        if len(raw_bytes) > MAX_RECIPE_BYTES:
            raise UsageError(f"recipe {path} is larger than {MAX_RECIPE_BYTES // 1024} KiB", "Is it a recipe?")
        content = raw_bytes.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"recipe {path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"cannot read recipe {path}: {error.strerror}") from None
    raw = parse_yaml(content, str(path))
    if not isinstance(raw, dict):
        raise UsageError(f"recipe {path} is not a mapping of sections", f"Sections: {', '.join(Recipe.model_fields)}.")
    for override in overrides:
        apply_override(raw, override)
    if method is not None:
        assign(raw, ["supervision", "method"], method, "--method")
    return validate_recipe(raw, source=str(path))


def changed_recipe(recipe: Recipe, overrides: Sequence[str], *, section: str, also: Sequence[str] = ()) -> Recipe:
    """The recipe of a finished run with other values in a section that training does not depend on.

    Args:
        recipe: of the run.
        overrides: "section.key=value" with a YAML value, as for --set.
        section: the one that may be changed.
        also: others that may.

    Raises:
        UsageError: an override is wrong, or of another section.
    """
    raw = recipe.dump()
    require_type(overrides, (list, tuple), "overrides", f'For example ["{section}.KEY=VALUE"].')
    for override in overrides:
        require_type(override, str, "overrides: an entry", f'For example "{section}.KEY=VALUE".')
        if override.partition(".")[0].strip() not in (section, *also):
            key, settable = override.partition("=")[0], " and ".join(f"{each}.KEY" for each in (section, *also))
            raise UsageError(f"--set {key}: of a finished run only {settable} can be set here")
        apply_override(raw, override)
    return validate_recipe(raw, source="--set")


def validate_recipe(raw: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """A Recipe from plain data.

    Args:
        raw: sections by name, as from YAML.
        source: for error messages.

    Raises:
        UsageError: names the first wrong key, and how many more there are.
    """
    if is_deep(raw):
        raise UsageError(f"{source}: nested more than {MAX_DEPTH} levels deep")
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=True)
        message, hint = _explain(problems[0])
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UsageError(f"{source}: {message}{more}", hint) from None


def changed_keys(old: Recipe, new: Recipe) -> list[str]:
    """Dotted keys whose values differ, in alphabetical order."""
    flat_old, flat_new = _flatten(old.dump()), _flatten(new.dump())
    return sorted(key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key) != flat_new.get(key))


def recipe_yaml(recipe: Recipe) -> str:
    """The recipe as YAML, with every key."""
    return dump_yaml(recipe.dump())


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of recipes. Editors use it to complete and check keys."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def _explain(problem: Any) -> tuple[str, str]:
    location = [str(part) for part in problem["loc"]]
    key = ".".join(part for part in location if part not in TERMS)  # pydantic adds the name of the term to the location
    if problem["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Known here: {', '.join(known)}."
        return f"unknown key {key}", hint
    if problem["type"] == "missing":
        return f"{key} is missing", ""
    text = problem["msg"].removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    if not key or (problem["type"] == "value_error" and (key in text or repr(problem["input"]) in text)):
        return text, ""
    return f"{key}: {text}, got {_shorten(problem['input'])}", ""


def _keys_at(location: list[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for part in location:
        if part == "terms" or part.isdecimal():
            continue
        if part in TERMS:
            model = TERMS[part]
            continue
        field = model.model_fields.get(part)
        kind = field.annotation if field is not None else None
        while get_origin(kind) in (list, Annotated, Union, UnionType):  # of a union what may be None
            kind = get_args(kind)[0]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        model = kind
    return list(model.model_fields)


def _shorten(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
