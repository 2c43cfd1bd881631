"""Recipes that are damaged, deep, large or hostile: one line and exit 2 within 2 s, and nothing in them runs."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.recipe import Recipe, load_recipe, recipe_yaml
from compress.system.errors import UsageError
from tests.helpers.command import Command, assert_fails
from tests.helpers.paths import RECIPES

SEED = RECIPES[0].read_text(encoding="utf-8")
MANY = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.binary(max_size=9)
)
trees = st.recursive(
    scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(scalars, inner, max_size=4))
)
NASTY = [
    *(
        "&a",
        "*a",
        "<<: *a",
        "!!python/object/apply:os.system [touch SENTINEL]",
        "!!python/name:os.system",
        "!!binary x",
    ),
    *(
        "!!set {a}",
        "!!timestamp 2020-01-01",
        "%TAG ! tag:yaml.org,2002:python/",
        "---",
        "...",
        "\t",
        "\t- x",
        "? [a]: b",
    ),
    *(
        ".nan",
        "-.inf",
        "1e999",
        "0x10",
        "1" * 400,
        "1_000",
        "2020-01-01",
        "yes",
        "~",
        "{",
        "[",
        "'",
        '"',
        "|",
        ">",
        "#",
    ),
    *(
        "data: {name: digits}",
        "train: {lr: .nan}",
        "\x00",
        "\x07",
        "\ufeff",
        "\u2028",
        "\x85",
        "\U0001f600",
        '"\\ud800"',
    ),
    *("[" * 500, "{a: " * 500, "- " * 500, "? " * 500, "a:\n " * 200),
]


def is_one_line(error: UsageError) -> UsageError:
    assert len(str(error).splitlines()) == 1
    return error


@contextlib.contextmanager
def within_two_seconds() -> Iterator[None]:
    """Of processor time: other processes work beside the tests."""
    began = time.process_time()
    yield
    assert time.process_time() - began < 2


def outcome(folder: Path, content: bytes) -> Recipe | UsageError:
    """The valid recipe, or the one error that is allowed; any other exception fails the test."""
    path = folder / "recipe.yaml"
    path.write_bytes(content)
    try:
        with within_two_seconds():
            recipe = load_recipe(path)
    except UsageError as error:
        return is_one_line(error)
    assert load_recipe_of(folder, recipe_yaml(recipe)) == recipe  # a valid one can be written and read again
    return recipe


def load_recipe_of(folder: Path, text: str) -> Recipe:
    path = folder / "again.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzzed")


@MANY
@given(
    st.lists(st.tuples(st.integers(0, len(SEED)), st.integers(0, 40), st.sampled_from(NASTY)), min_size=1, max_size=4)
)
def test_a_recipe_with_parts_replaced(folder: Path, edits: list[tuple[int, int, str]]) -> None:
    text = SEED
    for place, length, inserted in edits:
        text = text[:place] + inserted.replace("SENTINEL", str(folder / "sentinel")) + text[place + length :]
    outcome(folder, text.encode("utf-8", "surrogatepass"))
    assert not (folder / "sentinel").exists()


@MANY
@given(st.lists(st.tuples(st.integers(0, len(SEED)), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=6))
def test_a_recipe_with_bytes_replaced(folder: Path, edits: list[tuple[int, int, bytes]]) -> None:
    content = SEED.encode()
    for place, length, inserted in edits:
        content = content[:place] + inserted + content[place + length :]
    outcome(folder, content)


@MANY
@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), trees))
def test_sections_that_hold_anything(folder: Path, tree: dict[str, object]) -> None:
    outcome(folder, yaml.dump(tree).encode("utf-8", "surrogatepass"))


KEYS = [f"{section}.{key}" for section, field in Recipe.model_fields.items() for key in field.annotation.model_fields]  # type: ignore[union-attr]


@MANY
@given(st.sampled_from([*KEYS, "student.args.x", "supervision.dtd.beta"]), trees)
def test_a_key_of_another_type(folder: Path, key: str, value: object) -> None:
    text = yaml.dump(value, default_flow_style=True).removesuffix("...\n")
    path = folder / "recipe.yaml"
    path.write_text(SEED)
    try:
        with within_two_seconds():
            load_recipe(path, overrides=[f"{key}={text}"])
    except UsageError as error:
        is_one_line(error)


HOSTILE = {
    "10 MB": b"# " + b"x" * 10_000_000,
    "python": b"!!python/object/apply:os.system ['touch sentinel']",
    "tag in a value": SEED.encode() + b"\nexport: !!python/object/apply:os.system ['touch sentinel']\n",
    "billion laughs": b"a: &a [x]\n" + b"".join(b"%c: &%c [*%c, *%c]\n" % (n + 1, n + 1, n, n) for n in range(97, 120)),
    "deep": b"student: {model: x, args: " + b"{a: " * 5000 + b"}" * 5001,
    "deep but not too deep for a parser": SEED.encode().split(b"student:")[0]
    + b"student: {model: resnet10t, args: " + b"{a: " * 60 + b"1" + b"}" * 61,
    "invalid UTF-8": b"data: {name: \xff}",
    "a control character": SEED.encode() + b'\n"\\e[31mred": 1',
    "NaN": b"train: {lr: .nan}",
    "duplicate": b"data: {name: digits}\ndata: {name: digits}",
    "tab": b"data:\n\tname: digits",
    "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_the_command_answers_a_hostile_recipe_with_one_line(command: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(HOSTILE[name])
    result = command("distill", "recipe.yaml", cwd=tmp_path)
    assert_fails(result, 2)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr[:-1].isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_recipe_without_end_is_given_up(command: Command, tmp_path: Path) -> None:
    assert_fails(command("distill", "/dev/zero", cwd=tmp_path, timeout=60), 2, "larger than")


def test_a_recipe_from_a_pipe_is_read(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(writer, b"data: {name: digits}\ntrain: {epochs: 0}\n")
    threading.Timer(3, os.close, [writer]).start()  # the end of the file
    assert_fails(command("distill", "pipe", cwd=tmp_path, timeout=60), 2, "teacher is missing")
