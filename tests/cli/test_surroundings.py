"""The command where terminals, users and environments are unlike the developer's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Command, assert_fails, run
from tests.helpers.pictures import write_folder_data


def test_what_a_terminal_cannot_show_is_an_escape(folder_data: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(folder_data, data)
    for split in ("train", "val"):
        (data / split / "dark").rename(data / split / "日本")
    text = tiny_recipe.read_text().replace(str(folder_data), str(data))
    (tmp_path / "my.yaml").write_text(text, encoding="utf-8")
    made = run("distill", tmp_path / "my.yaml", "--out", tmp_path / "run", cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert made.returncode == 0, made.stderr
    picture = next((data / "val" / "日本").iterdir())
    odd = tmp_path / os.fsdecode(b"caf\xe9-\xff.png")
    shutil.copyfile(picture, odd)
    shown = run("predict", tmp_path / "run", picture, odd, "--json", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "日本" in [entry["class"] for entry in json.loads(shown.stdout)[0]["classes"]]


def test_a_leftover_of_torchrun_is_a_warning(tmp_path: Path) -> None:
    listed = run("runs", "list", cwd=tmp_path, WORLD_SIZE="4")
    assert listed.returncode == 0
    assert "warning: WORLD_SIZE=4 is set" in listed.stderr


def test_a_home_is_expanded_in_options_that_shells_leave_alone(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    failed = run("export", "~/nowhere", cwd=tmp_path, HOME=str(tmp_path))
    assert_fails(failed, 3, f"{tmp_path}/nowhere is not a run folder")
    failed = run("distill", tiny_recipe, "--out=$NOT_SET/run", cwd=tmp_path)
    assert_fails(failed, 2, "$NOT_SET", "not set")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_a_user_without_a_name_and_home_is_told_what_to_set(tmp_path: Path) -> None:
    as_nobody = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    if subprocess.run([*as_nobody, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine has no user namespaces")
    kept = {key: value for key, value in os.environ.items() if key not in ("HOME", "COMPRESS_CACHE", "USER", "LOGNAME")}

    def compress(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*as_nobody, sys.executable, "-m", "compress", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)

    told = compress("doctor")
    assert told.returncode == 0, told.stderr
    assert "COMPRESS_CACHE" in told.stdout
    write_folder_data(tmp_path / "data")
    (tmp_path / "my.yaml").write_text(
        "data: {name: folder, root: data, image_size: 8}\nteacher: {model: resnet10t}\nstudent: {model: resnet10t}\n"
    )
    assert_fails(compress("distill", "my.yaml"), 4, "home folder", "$COMPRESS_CACHE")
