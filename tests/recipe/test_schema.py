"""The JSON schema of recipes, read by jsonschema as an editor would read it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from compress.recipe import recipe_schema, validate_recipe
from compress.recipe.methods import METHODS, SHORT_NAMES, SPELLINGS
from compress.recipe.strict_yaml import parse_yaml
from tests.helpers.paths import ROOT

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
GUIDES = [ROOT / "README.md", *sorted((ROOT / "recipes").glob("*.md"))]
EXAMPLES = [
    pytest.param(parse_yaml(text, page.name), id=f"{page.stem}-{number}")
    for page in GUIDES
    for number, text in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(), re.S))
]
MINIMAL: dict[str, Any] = {
    "data": {"name": "digits"},
    "teacher": {"model": "resnet18"},
    "student": {"model": "resnet10t"},
}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def with_method(name: object) -> dict[str, Any]:
    return {**MINIMAL, "supervision": {"method": name}}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_comes_along_is_valid(path: Path, validator: Draft202012Validator) -> None:
    validator.validate(parse_yaml(path.read_text(), path.name))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_guides_are_recipes_or_sections_of_one(
    example: dict[str, Any], validator: Draft202012Validator
) -> None:
    validator.validate({**MINIMAL, **example})
    validate_recipe({**MINIMAL, **example})


def test_the_readme_opens_with_a_whole_recipe() -> None:
    (whole,) = EXAMPLES[0].values
    assert EXAMPLES[0].id == "README-0"
    assert {"data", "teacher", "student"} <= whole.keys()


def test_a_method_is_completed_and_a_misspelt_one_is_refused(validator: Draft202012Validator) -> None:
    assert not validator.is_valid(with_method("kdd"))
    assert {*METHODS, *SHORT_NAMES, "ka+dtd", "ka-lsr+dtd", "ka+dtd-cwsm"} <= set(SPELLINGS)
    for name in SPELLINGS:
        validator.validate(with_method(name))
        assert validate_recipe(with_method(name)).supervision.method in METHODS


def test_a_gpu_is_named_in_either_case(validator: Draft202012Validator) -> None:
    for name, valid in {
        "89": True,
        "sm89": True,
        "SM_89": False,
        "Sm120": True,
        "8.9": True,
        "90a": True,
        "x": False,
    }.items():
        assert validator.is_valid({**MINIMAL, "export": {"compute_capabilities": [name]}}) == valid, name


def patterns(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from patterns(inner)


def test_patterns_are_of_the_syntax_that_editors_share() -> None:
    """Of the groups that open with (? JavaScript before ECMAScript 2025 has (?: and those that look ahead or behind."""
    found = list(patterns(recipe_schema()))
    assert found
    assert [pattern for pattern in found if re.search(r"\(\?(?!:|=|!|<=|<!)", pattern)] == []
