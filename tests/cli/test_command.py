"""The command itself: help, version, completion, usage errors, and that it starts at once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Command, Start, assert_fails
from tests.helpers.paths import ROOT
from tests.helpers.pictures import TINY


def test_a_group_without_a_command_shows_its_help(command: Command, tmp_path: Path) -> None:
    for arguments in ([], ["runs"]):
        result = command(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert "Commands:\n" in result.stderr


def test_usage_errors_are_exit_2(command: Command, tmp_path: Path) -> None:
    assert_fails(command("distill", cwd=tmp_path), 2, "RECIPE")
    assert_fails(command("destill", cwd=tmp_path), 2, "destill")
    assert_fails(command("distill", "none.yaml", cwd=tmp_path), 2, "none.yaml")


def test_help_and_version_and_schema_and_doctor_answer(command: Command, tmp_path: Path) -> None:
    assert "distill" in command("--help", cwd=tmp_path).stdout
    assert command("--version", cwd=tmp_path).stdout.strip()
    assert json.loads(command("recipe", "schema", cwd=tmp_path).stdout)["properties"]["train"]
    facts = json.loads(command("doctor", "--json", cwd=tmp_path).stdout)
    assert facts["torch"]
    assert json.loads(command("data", "list", "--json", cwd=tmp_path).stdout)


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    """As documented, in a real bash; the function that it defines is then called as a press of the tab key would."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "compress").write_text(f'#!/bin/sh\nexec {sys.executable} -m compress "$@"\n')
    (folder / "compress").chmod(0o755)
    script = (
        'eval "$(_COMPRESS_COMPLETE=bash_source compress)"\n'
        'COMP_WORDS=(compress dis); COMP_CWORD=1; _compress_completion compress; echo "${COMPREPLY[@]}"\n'
        "COMPREPLY=(); COMP_WORDS=(compress export --prec); COMP_CWORD=2; _compress_completion compress\n"
        'echo "${COMPREPLY[@]}"\n'
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.split() == ["distill", "--precision"], result.stderr


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; sys.argv = ['compress', '--help']\nfrom compress.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'timm', 'numpy', 'pydantic', 'onnx', 'rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stderr.strip() == "[]"


def test_a_closed_stdout_is_no_error(tiny_recipe: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        f"{sys.executable} -m compress recipe schema | head -1",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stdout.strip() == "{"
    assert result.stderr == ""


@pytest.mark.parametrize(("name", "code"), [("all", 0), ("cut", 3)])
def test_a_closed_stdout_keeps_the_exit_code(
    start: Start, folder_data: Path, tmp_path: Path, name: str, code: int
) -> None:
    """A pipeline that goes by the code is not misled by a reader that went away, as in `compress ... | true`."""
    shutil.copytree(folder_data, tmp_path / "data")
    if name == "cut":
        (tmp_path / "data" / "train" / "dark" / "000.png").write_bytes(b"no picture")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TINY.replace("DATA", str(tmp_path / "data")))
    read, write = os.pipe()
    os.close(read)
    process = start("data", "check", recipe, cwd=tmp_path, options={"stdout": write})
    os.close(write)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert ("error: " in errors) == bool(code)
