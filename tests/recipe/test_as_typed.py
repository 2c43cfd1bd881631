"""Text as people type and paste it: values of --set, and signs that look like a space."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compress.recipe.overrides import apply_override
from compress.recipe.strict_yaml import MAX_DEPTH, dump_yaml, parse_yaml
from compress.system.errors import UsageError


def overridden(override: str) -> Any:
    raw: dict[str, Any] = {}
    apply_override(raw, override)
    return raw["a"]["b"]


@pytest.mark.parametrize(
    "text", ["/data/photos #2", "C: x", "no: 5", "/a/b #", "ends with:", "x: y #z", "- not: a list", "8 # eight"]
)
def test_text_on_the_command_line_is_whole(text: str) -> None:
    assert overridden(f"a.b={text}") == text


@pytest.mark.parametrize(
    "text", ["1e2", "0.5", "true", "null", "", "{c: 1}", "[1, 2] # two", "'x #1'", '"y: z"', "a#b", "http://x", "~"]
)
def test_all_else_is_yaml(text: str) -> None:
    assert overridden(f"a.b={text}") == parse_yaml(text, "text")


NUMBERS = "08 0912345 1e5 4e12345 4e12 .5 5. +1 0x1f 1_000 12:30 0o17 0b1 .inf -.INF .NaN 1e-3 2026-01-01"
WORDS = "yes no on Off y true ~ null = << é #a a: -a *a &a !a %a @a `a '"


@pytest.mark.parametrize(
    "text", [*NUMBERS.split(), *WORDS.split(), "", " a ", "a: b", "# a", "- a", "a\nb", "\u00a0a", "\u3000", "\t"]
)
def test_text_of_a_recipe_is_read_back_as_it_was(text: str) -> None:
    """What YAML 1.1 takes for text may be a number in YAML 1.2: a folder, a column or a commit."""
    content = {"a": text, "b": [text], "c": {"d": text}}
    assert parse_yaml(dump_yaml(content), "text") == content


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner)))
def test_any_text_of_a_recipe_is_read_back_as_it_was(content: Any) -> None:
    if depth(content) < MAX_DEPTH:
        assert parse_yaml(dump_yaml({"a": content}), "text") == {"a": content}


def depth(content: Any) -> int:
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return 1 + max(map(depth, inner), default=0)


def test_numbers_of_a_recipe_are_read_back_as_they_were() -> None:
    content = {"a": [0, -3, 10**12, 0.5, 1e-5, 1e22, -2.5e-300, True, False, None]}
    found = parse_yaml(dump_yaml(content), "text")
    assert found == content
    assert [type(value) for value in found["a"]] == [type(value) for value in content["a"]]


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
