"""Run folders in use, gone, read-only or oddly named, and standard streams that are closed or no terminal."""

import ctypes
import datetime
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Command, Process, Start, assert_fails, faulty, snapshot, until, weights
from tests.helpers.pictures import write_folder_data

pytestmark = pytest.mark.faults


def ends_well(process: Process) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_second_run_into_a_folder_names_the_holder_and_the_first_goes_on(
    command: Command, start: Start, long_recipe: Path, tmp_path: Path, more: list[str]
) -> None:
    out = tmp_path / "run"
    process = start("distill", long_recipe, "--out", out, cwd=tmp_path)
    until(process, "teacher 1/6")
    process.send_signal(signal.SIGSTOP)  # it holds the folder, and writes nothing meanwhile
    before = snapshot(out)
    result = command("distill", long_recipe, "--out", out, *more, cwd=tmp_path)
    assert_fails(result, 4, f"process {process.pid} on {os.uname().nodename}")
    assert snapshot(out) == before
    process.send_signal(signal.SIGCONT)
    ends_well(process)


def test_a_dead_holders_lock_is_reclaimed(command: Command, start: Start, long_recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("distill", long_recipe, "--out", out, cwd=tmp_path)
    until(process, "teacher 1/6")
    process.kill()
    process.wait()
    assert (out / ".holder").read_text().startswith(f"process {process.pid} ")
    result = command("distill", long_recipe, "--out", out, "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_rerun_over_a_finished_folder_is_refused_with_a_hint(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    before = snapshot(finished)
    result = command("distill", tiny_recipe, "--out", finished, cwd=home)
    assert_fails(result, 4, "not empty", "finished run", "another --out")
    assert snapshot(finished) == before


def test_resuming_with_another_recipe_lists_every_changed_key(
    command: Command, tiny_recipe: Path, finished: Path, home: Path
) -> None:
    before = snapshot(finished)
    changes = ("--set", "train.lr=0.3", "--set", "student.args.channels=[8,8,8,16]", "--method", "kd")
    result = command("distill", tiny_recipe, "--out", finished, "--resume", *changes, cwd=home)
    assert_fails(result, 2, "train.lr", "student.args.channels", "supervision.method")
    assert snapshot(finished) == before


def test_a_finished_run_is_not_passed_off_as_one_of_other_data(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    same, other = write_folder_data(tmp_path / "same"), write_folder_data(tmp_path / "other", train=25)
    resume = ("distill", tiny_recipe, "--out", finished, "--resume", "--json", "--set")
    assert_fails(command(*resume, f"data.root={other}", cwd=tmp_path), 3, "other folder data")
    result = command(*resume, f"data.root={same}", cwd=tmp_path)
    assert json.loads(result.stdout).items() >= json.loads((finished / "manifest.json").read_text()).items()


def drop_root() -> None:
    """Root may write anywhere; without these two capabilities it is held to permissions, as anyone is."""
    for capability in (1, 2):  # DAC_OVERRIDE and DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def test_an_output_that_is_read_only_is_an_environment_error(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    for more in ([], ["--out", home / "run"]):
        process = start("distill", tiny_recipe, *more, cwd=home, options={"preexec_fn": drop_root})
        _, errors = process.communicate()
        assert process.returncode == 4, errors
        last = errors.strip().splitlines()[-1]
        assert last.startswith("error: cannot write")
        assert "Permission denied" in last
        assert "Traceback" not in errors
    assert not list(home.iterdir())


@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_a_folder_that_vanishes_is_a_clear_error_and_is_not_made_anew(
    start: Start, long_recipe: Path, tmp_path: Path, phase: str
) -> None:
    out = tmp_path / "run"
    process = start("distill", long_recipe, "--out", out, cwd=tmp_path)
    until(process, f"{phase} 2/6")
    process.send_signal(signal.SIGSTOP)
    shutil.rmtree(out)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=60)
    last = errors.strip().splitlines()[-1]
    assert process.returncode in (3, 4)
    assert last.startswith("error: ")
    assert str(out) in last
    assert "Traceback" not in errors
    assert not out.exists()


def test_spaces_and_unicode_in_every_path_are_fine(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    home = tmp_path / "Ein Ordner  mit 空白, ü & 'Zeichen'"
    data = write_folder_data(home / "my dätä")
    recipe = home / "mein rezept ☃.yaml"
    lines = [line for line in tiny_recipe.read_text().splitlines() if not line.startswith("data:")]
    recipe.write_text("\n".join([f"data: {{name: folder, root: {json.dumps(str(data))}, image_size: 8}}", *lines]))
    result = command("distill", recipe, "--out", home / "ein lauf ☃", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    run = json.loads(result.stdout)["run"]
    image = data / "val" / "grey" / "ein bild 空.png"
    (data / "val" / "grey" / "000.png").rename(image)
    result = command("predict", run, image, "--json", cwd=home)
    assert json.loads(result.stdout)[0]["image"] == str(image)


def test_progress_that_nobody_reads_does_not_end_the_work(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    """`compress distill ... 2>&1 | head -1`."""
    read, write = os.pipe()
    process = start("distill", tiny_recipe, cwd=tmp_path, options={"stdout": write, "stderr": write})
    os.close(write)
    os.read(read, 1)
    os.close(read)
    assert process.wait(timeout=120) == 0
    assert weights(tmp_path)


def test_a_terminal_that_goes_away_does_not_end_the_work(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = start("distill", tiny_recipe, cwd=tmp_path, options={"stdout": theirs, "stderr": theirs})
    os.close(theirs)
    os.read(ours, 1)
    os.close(ours)
    assert process.wait(timeout=120) == 0
    assert weights(tmp_path)


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_from_the_start_are_fine(tiny_recipe: Path, tmp_path: Path, closed: str) -> None:
    subprocess.run(
        f"{sys.executable} -m compress distill {tiny_recipe} --json {closed}", shell=True, cwd=tmp_path, check=True
    )
    assert weights(tmp_path)


def test_a_stdout_that_is_full_is_an_environment_error(tmp_path: Path) -> None:
    result = subprocess.run(
        f"{sys.executable} -m compress recipe schema > /dev/full",
        shell=True, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert_fails(result, 4, "stdout", "No space left")


def on_a_terminal(start: Start, recipe: Path, cwd: Path, **env: str) -> str:
    ours, theirs = pty.openpty()
    process = start("distill", recipe, cwd=cwd, options={"stdout": theirs, "stderr": theirs}, **env)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)
    assert process.wait(timeout=120) == 0
    return shown.decode()


def test_dumb_and_colourless_terminals_get_what_they_ask_for(start: Start, tiny_recipe: Path, home: Path) -> None:
    dumb = on_a_terminal(start, tiny_recipe, home, TERM="dumb")
    assert "\x1b" not in dumb
    assert "student 2/2" in dumb
    plain = on_a_terminal(start, tiny_recipe, home, TERM="xterm-256color", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*(3|4|9|10)[0-9](;[0-9]+)*m", plain)
    assert "student 2/2" in plain


def test_a_clock_that_jumps_back_changes_no_weights(
    command: Command, tiny_recipe: Path, finished: Path, tmp_path: Path
) -> None:
    result = command("distill", tiny_recipe, "--json", cwd=tmp_path, **faulty("clock"))
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert manifest["student_sha256"] == json.loads((finished / "manifest.json").read_text())["student_sha256"]
    assert 0 <= manifest["seconds"] < 600
    began = datetime.datetime.fromisoformat(manifest["started"])
    assert began < datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=30), "its clock did not jump"
