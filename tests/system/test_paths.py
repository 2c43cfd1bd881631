"""Paths as people give them: what no shell expanded."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from compress.cli.main import cli
from compress.cli.paths import UserPath
from compress.data.sources import data_roots
from compress.data.tables import read_tables
from compress.models.published import find_published
from compress.models.weights import teacher_preprocessing
from compress.recipe import Data, load_recipe
from compress.recipe.teacher import Member
from compress.runs import load_student
from compress.runs.folder import runs_root
from compress.system.errors import CompressError, InputError, MachineError, UsageError
from compress.system.files import cache_folder
from compress.system.paths import user_path
from export.folder import given_run
from tests.helpers.pictures import write_images


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder. The working folder is another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PLACE", "~/photos")
    return tmp_path / "home"


@pytest.mark.parametrize("given", ["~/photos", "$HOME/photos", "${HOME}/photos", "$PLACE", Path("~/photos")])
def test_home_and_variables_are_expanded(home: Path, given: str | Path) -> None:
    assert user_path(given) == home / "photos"


@pytest.mark.parametrize("given", ["photos", "a~b", "/x/~", "100$", "a b #2", "C: x"])
def test_other_text_stays_as_it_is(home: Path, given: str) -> None:
    assert str(user_path(given)) == given


def test_what_exists_with_a_dollar_in_its_name_is_meant(home: Path) -> None:
    Path("$HOME").mkdir()
    assert user_path("$HOME") == Path("$HOME")


@pytest.mark.parametrize(
    ("given", "words"),
    [("$NOWHERE_SET/x", "the variable $NOWHERE_SET"), ("~nobody-of-that-name/x", "home folder in '~nobody")],
)
def test_what_cannot_be_expanded_is_said(home: Path, given: str, words: str) -> None:
    with pytest.raises(UsageError) as raised:
        user_path(given)
    assert words in str(raised.value)


def test_every_place_that_takes_a_path_expands_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMPRESS_CACHE", "COMPRESS_RUNS", "COMPRESS_DATA"):
        monkeypatch.setenv(name, "$HOME/place")
    assert cache_folder() == runs_root() == data_roots(None)[0] == home / "place"
    monkeypatch.delenv("COMPRESS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "~/xdg")
    assert cache_folder() == home / "xdg" / "compress"
    assert data_roots("~/photos") == [home / "photos"]
    assert given_run("~/runs/one").path == home / "runs" / "one"
    home.mkdir()
    (home / "recipe.yaml").write_text("data: {name: digits}\nteacher: {model: a}\nstudent: {model: b}\n")
    assert load_recipe("~/recipe.yaml").data == Data(name="digits")
    expected = str(home / "weights")
    with pytest.raises(InputError, match=str(home / "run")):
        load_student("~/run")
    for settings in (
        Member(model="resnet18", source="finetune", weights="~/weights"),
        Member(model="local-dir:~/weights", source="finetune"),
    ):
        with pytest.raises(CompressError, match=expected):
            find_published(settings)
    (home / "weights").mkdir()
    (home / "weights" / "config.json").write_text("{")
    with pytest.raises(InputError, match=expected):
        teacher_preprocessing(Member(model="resnet18", source="checkpoint", checkpoint="~/weights"))


def parameters(command: click.Command, name: str) -> Iterator[tuple[str, click.Parameter]]:
    """Of the command and of those below it, each with the command's name."""
    yield from ((name, parameter) for parameter in command.params)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for other in command.list_commands(context):
            below = command.get_command(context, other)
            assert below is not None
            yield from parameters(below, f"{name} {other}")


def test_every_path_of_the_command_line_is_expanded() -> None:
    paths = [(name, one) for name, one in parameters(cli, "compress") if isinstance(one.type, click.Path)]
    assert {("compress data check", "preview"), ("compress distill", "out")} <= {
        (name, one.name) for name, one in paths
    }
    assert [f"{name}: {one.name}" for name, one in paths if not isinstance(one.type, UserPath)] == []


def test_tables_below_the_home_folder_are_found(home: Path) -> None:
    write_images(home, 3, seed=0)
    for label, name in enumerate(("train.csv", "val.csv")):
        (home / name).write_text(f"path,label\n000.png,a\n00{label + 1}.png,b\n")
    source = read_tables(
        Path(), Data(name="csv", root=".", image_size=8, train="~/train.csv", evaluation="$HOME/val.csv")
    )
    assert source.train.images == [str(home / "000.png"), str(home / "001.png")]
    assert source.evaluation is not None
    assert source.evaluation.images == [str(home / "000.png"), str(home / "002.png")]


def test_without_a_home_folder_the_cache_needs_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COMPRESS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry and without $HOME
    with pytest.raises(MachineError, match="COMPRESS_CACHE"):
        cache_folder()
