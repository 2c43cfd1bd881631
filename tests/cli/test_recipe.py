"""`compress recipe list` and `show`, and the commands that find a recipe by its name, outside the checkout."""

import json
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import Command, assert_fails
from tests.helpers.paths import RECIPES, ROOT


def test_list_names_each_recipe_and_what_it_trains(command: Command, tmp_path: Path) -> None:
    result = command("recipe", "list", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [path.stem for path in RECIPES]
    for line, path in zip(lines, RECIPES, strict=True):
        content = yaml.safe_load(path.read_text())
        for word in (content["data"]["name"], content["teacher"]["model"], content["student"]["model"]):
            assert word in line

    result = command("recipe", "list", "--json", cwd=tmp_path)
    (quickstart,) = [row for row in json.loads(result.stdout) if row["name"] == "quickstart"]
    assert quickstart == {
        "name": "quickstart",
        "data": "digits",
        "teacher": "resnet18",
        "student": "resnet10t",
        "method": "ka-ps+dtd-flsw",
        "epochs": 15,
    }


def test_show_prints_the_file_as_it_is(command: Command, tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").touch()  # as `compress recipe show quickstart > quickstart.yaml` does first
    result = command("recipe", "show", "quickstart", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == (ROOT / "recipes" / "quickstart.yaml").read_text()


@pytest.mark.parametrize("words", [("recipe", "show"), ("distill",), ("sweep",)])
def test_an_unknown_name_is_exit_2(command: Command, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert_fails(command(*words, "quikstart", cwd=tmp_path), 2, "'quikstart'", "Did you mean quickstart?")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_sweep_trains_a_recipe_by_its_name(command: Command, tmp_path: Path) -> None:
    settings = [f"--set={key}" for key in ("train.epochs=1", "teacher.epochs=1", "train.warmup_epochs=0")]
    result = command("sweep", "quickstart", "--method", "kd", *settings, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "quickstart-kd-s0" / "student").is_dir()
    assert (tmp_path / "runs" / "quickstart-sweep.html").is_file()
