"""Text as people type and paste it: values of --set, and signs that look like a space."""

from typing import Any

import pytest
import yaml

from compress.recipe.overrides import apply_override
from compress.recipe.strict_yaml import parse_yaml
from compress.system.errors import UsageError


def given(override: str) -> Any:
    raw: dict[str, Any] = {}
    apply_override(raw, override)
    return raw["a"]["b"]


@pytest.mark.parametrize(
    "text", ["/data/photos #2", "C: x", "no: 5", "/a/b #", "ends with:", "x: y #z", "- not: a list", "8 # eight"]
)
def test_text_on_the_command_line_is_whole(text: str) -> None:
    assert given(f"a.b={text}") == text


@pytest.mark.parametrize(
    "text", ["1e2", "0.5", "true", "null", "", "{c: 1}", "[1, 2] # two", "'x #1'", '"y: z"', "a#b", "http://x", "~"]
)
def test_all_else_is_yaml(text: str) -> None:
    assert given(f"a.b={text}") == parse_yaml(text, "text")


@pytest.mark.parametrize("sign", ["\u00a0", "\u2003", "\u200b", "\u202f", "\u3000", "\ufeff"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a:\n@@b: 2\n", 2),
        ("a: 1\nb:@2\n", 2),
        ("a: {c: 1,@d: 2}\n", 1),
        ("# text\n\na:\n  -@x\n", 4),
        ("a:\n  b: [@1]\n", 2),
    ],
)
def test_an_odd_space_is_named_with_its_line(sign: str, text: str, line: int) -> None:
    with pytest.raises(UsageError, match=rf"line {line}: .*U\+{ord(sign):04X}"):
        parse_yaml(text.replace("@", sign), "recipe")


@pytest.mark.parametrize(
    "text",
    ["a: x\u00a0y\n", "a: 'b:\u00a0c'\n", "# a:\u00a0b\na: 1\n", "\ufeffa: 1\n", "a: 1\u3000\n"],
)
def test_an_odd_space_within_text_is_text(text: str) -> None:
    assert parse_yaml(text, "recipe") == yaml.safe_load(text)
