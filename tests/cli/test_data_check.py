"""`compress data check`: a table for people, JSON for programs, and an exit code."""

import json
from pathlib import Path

from tests.helpers.command import Command, assert_fails
from tests.helpers.damage import not_an_image
from tests.helpers.pictures import write_folder_data


def test_bad_files_end_with_exit_code_3_and_json_lists_all(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data", train=24, evaluation=8)
    bad = sorted((data / "train" / "grey").iterdir())[:5]
    for path in bad:
        not_an_image(path)
    result = command("data", "check", tiny_recipe, "--set", f"data.root={data}", "--json", cwd=tmp_path)
    assert_fails(result, 3, "would stop a training")
    found = json.loads(result.stdout)
    assert found["stops"]
    (unreadable,) = (one for one in found["findings"] if one["kind"] == "unreadable")
    assert unreadable["files"] == [f"{path}: cannot be read (not an image)" for path in bad]
    shown = command("data", "check", tiny_recipe, "--set", f"data.root={data}", cwd=tmp_path)
    assert_fails(shown, 3, "would stop a training")
    assert "train/grey/000.png" in shown.stdout
    assert "and 2 more" in shown.stdout


def test_what_is_left_out_is_recorded(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    data = write_folder_data(tmp_path / "data", train=40, evaluation=8)
    bad = data / "train" / "grey" / "004.png"
    not_an_image(bad)
    settings = ("--set", f"data.root={data}", "--set", "data.on_bad_image=skip")
    assert command("data", "check", tiny_recipe, *settings, cwd=tmp_path).returncode == 0
    result = command("distill", tiny_recipe, *settings, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 image cannot be read and is left out" in result.stderr
    record = json.loads(result.stdout)["data"]
    assert record["train_images"] == 119
    assert record["left_out"] == {str(bad): "cannot be read (not an image)"}


def test_data_and_preview_are_found_below_the_home_folder(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    bad = write_folder_data(tmp_path / "home" / "photos") / "train" / "grey" / "004.png"
    not_an_image(bad)
    (tmp_path / "home" / "my.yaml").write_text(tiny_recipe.read_text())
    (tmp_path / "work").mkdir()
    surroundings = {"cwd": tmp_path / "work", "HOME": str(tmp_path / "home")}
    given = ("data", "check", "~/my.yaml", "--set", "data.root=$HOME/photos")
    shown = command(*given, **surroundings)
    assert_fails(shown, 3, "would stop a training")
    assert " train/grey/004.png" in shown.stdout  # without the folder
    drawn = command(*given, "--preview=~/samples.png", **surroundings)
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "home" / "samples.png").exists()
    assert list((tmp_path / "work").iterdir()) == []
