from pathlib import Path

import pytest

from compress import load_recipe
from compress.recipe.library import find_recipe, packaged_recipe, recipe_names
from compress.system.errors import UsageError
from tests.helpers.paths import RECIPES, ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: an empty one outside the checkout."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_recipe_of_the_checkout_is_found_by_its_name() -> None:
    assert recipe_names() == [path.stem for path in RECIPES]
    assert [find_recipe(path.stem).read_bytes() for path in RECIPES] == [path.read_bytes() for path in RECIPES]


def test_a_name_loads_as_its_path_does() -> None:
    by_path = load_recipe(ROOT / "recipes" / "quickstart.yaml", method="kd", overrides=["train.seed=3"])
    assert load_recipe("quickstart", method="kd", overrides=["train.seed=3"]) == by_path


@pytest.mark.parametrize("file", ["quickstart", "quickstart.yaml"])
def test_a_file_of_that_name_in_the_working_folder_comes_first(folder: Path, file: str) -> None:
    (folder / file).write_text("data: {name: digits}\nteacher: {model: resnet34}\nstudent: {model: resnet18}\n")
    assert load_recipe("quickstart").teacher.model == "resnet34"
    assert packaged_recipe("quickstart").read_bytes() == (ROOT / "recipes" / "quickstart.yaml").read_bytes()


def test_a_folder_of_that_name_does_not_hide_the_recipe(folder: Path) -> None:
    (folder / "quickstart").mkdir()
    assert load_recipe("quickstart") == load_recipe(ROOT / "recipes" / "quickstart.yaml")


def test_a_path_is_never_taken_for_a_name(folder: Path) -> None:
    (folder / "mine").mkdir()
    for path in ("mine/quickstart", "./mine/quickstart.yaml", "quickstart.yaml", folder / "quickstart"):
        with pytest.raises(UsageError, match=r"no recipe at .*Did you mean quickstart") as caught:
            find_recipe(path)
        assert caught.value.code == 2


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("quikstart", "no recipe named 'quikstart'. Did you mean quickstart?"),
        ("cifar100_cup", "no recipe named 'cifar100_cup'. Did you mean cifar100_cpu?"),
        ("flowers", "no recipe named 'flowers'. `compress recipe list` shows the names."),
    ],
)
def test_an_unknown_name_is_a_usage_error_with_the_nearest_one(name: str, says: str) -> None:
    for look_up in (find_recipe, packaged_recipe, load_recipe):
        with pytest.raises(UsageError) as caught:
            look_up(name)
        assert str(caught.value) == says


@pytest.mark.parametrize("name", ["../recipes/quickstart", "quickstart.yaml", "", "."])
def test_only_a_name_is_packaged(name: str) -> None:
    with pytest.raises(UsageError):
        packaged_recipe(name)
