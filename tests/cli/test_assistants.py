"""The real command with teacher.assistants: the chain is that of runs made by hand, kept, shared, and goes on."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from safetensors.torch import load_file

import compress
from compress.system.files import sha256_file
from tests.helpers.command import Command, Start, assert_fails, metrics, snapshot, until

FIRST, SECOND = (
    "{model: resnet10t, args: {channels: [8, 8, 16, 8]}}",
    "{model: resnet10t, args: {channels: [8, 8, 8, 16]}}",
)
CHAIN = ("--set", f"teacher.assistants=[{FIRST}, {SECOND}]")
SEED = ("--set", "train.seed=3")


def run_of(command: Command, *arguments: object, cwd: Path) -> tuple[Path, dict[str, Any], str]:
    result = command("distill", *arguments, "--json", cwd=cwd)
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    return cwd / manifest["run"], manifest, result.stderr


@pytest.fixture(scope="module")
def chained(command: Command, tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Where a run with two assistants was made, and its folder."""
    home = tmp_path_factory.mktemp("chained")
    run, _, _ = run_of(command, tiny_recipe, *CHAIN, *SEED, cwd=home)
    return home, run


@pytest.mark.slow
def test_the_student_is_that_of_the_same_chain_made_by_hand(
    command: Command, tiny_recipe: Path, chained: tuple[Path, Path], tmp_path: Path
) -> None:
    """The assistants have the teacher's seed, 0, and the student its own."""
    _, run = chained
    first, by_hand, _ = run_of(command, tiny_recipe, "--set", f"student={FIRST}", cwd=tmp_path)
    teacher = f"teacher={FIRST[:-1]}, source: checkpoint, checkpoint: {first / 'student'}}}"
    second, _, _ = run_of(command, tiny_recipe, "--set", f"student={SECOND}", "--set", teacher, cwd=tmp_path)
    teacher = f"teacher={SECOND[:-1]}, source: checkpoint, checkpoint: {second / 'student'}}}"
    _, expected, _ = run_of(command, tiny_recipe, *SEED, "--set", teacher, cwd=tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["student_sha256"] == expected["student_sha256"]
    assert [entry["sha256"] for entry in manifest["assistants"]] == [
        sha256_file(folder / "student" / "model.safetensors") for folder in (first, second)
    ]
    assert manifest["teacher"] == by_hand["teacher"]


@pytest.mark.slow
def test_each_assistant_is_a_finished_run_and_the_teacher_stays_the_big_one(chained: tuple[Path, Path]) -> None:
    home, run = chained
    manifest = json.loads((run / "manifest.json").read_text())
    before = manifest["teacher"]["sha256"]
    assert sha256_file(run / "teacher" / "model.safetensors") == before
    for entry in manifest["assistants"]:
        folder = home / entry["run"]
        assert folder.parent == home / "runs" / "assistants"
        assistant = json.loads((folder / "manifest.json").read_text())
        assert assistant["status"] == "finished"
        assert assistant["teacher"]["sha256"] == before
        assert assistant["student_top1"] == entry["top1"]
        assert [line["epoch"] for line in metrics(folder) if line["phase"] == "student"] == [0, 1]
        assert compress.load_student(folder)
        assert sha256_file(folder / "student" / "model.safetensors") == entry["sha256"]
        before = entry["sha256"]
    newest = json.loads(max((run / "checkpoints").glob("*.json")).read_text())
    assert newest["provenance"]["teacher"] == before


@pytest.mark.slow
def test_a_student_of_another_seed_reuses_them_and_one_of_another_method_does_not(
    command: Command, tiny_recipe: Path, chained: tuple[Path, Path], tmp_path: Path
) -> None:
    home = shutil.copytree(chained[0], tmp_path / "home")
    before = snapshot(home / "runs" / "assistants")
    _, _, errors = run_of(command, tiny_recipe, *CHAIN, "--set", "train.seed=4", cwd=home)
    assert snapshot(home / "runs" / "assistants") == before
    assert "student 1/2" in errors
    assert ": student 1/2" not in errors
    run_of(command, tiny_recipe, *CHAIN, "--method", "kd", cwd=home)
    assert len(list(home.glob("runs/assistants/*/manifest.json"))) == 4


@pytest.mark.slow
def test_a_longer_student_keeps_its_assistants(
    command: Command, tiny_recipe: Path, chained: tuple[Path, Path], tmp_path: Path
) -> None:
    home = shutil.copytree(chained[0], tmp_path / "home")
    out = home / chained[1].relative_to(chained[0])
    longer = ("--set", "train.epochs=3", "--out", out, "--resume")
    _, manifest, errors = run_of(command, tiny_recipe, *CHAIN, *SEED, *longer, cwd=home)
    assert "student 3/3" in errors
    assert ": student" not in errors
    assert manifest["assistants"] == json.loads((chained[1] / "manifest.json").read_text())["assistants"]


@pytest.mark.slow
@pytest.mark.parametrize(("older", "elsewhere"), [(False, True), (True, False), (True, True)])
def test_a_run_goes_on_with_its_assistants_from_another_folder(
    command: Command, tiny_recipe: Path, chained: tuple[Path, Path], tmp_path: Path, older: bool, elsewhere: bool
) -> None:
    """One of an older version, which has no copy of its own, goes on where it was begun, and is refused elsewhere."""
    home = shutil.copytree(chained[0], tmp_path / "home")
    out = home / chained[1].relative_to(chained[0])
    if older:
        shutil.rmtree(out / "assistant")
    before = json.loads((out / "manifest.json").read_text())["assistants"]
    here = tmp_path / "elsewhere" if elsewhere else home
    here.mkdir(exist_ok=True)
    longer = ("distill", tiny_recipe, *CHAIN, *SEED, "--set", "train.epochs=3", "--out", out, "--resume", "--json")
    result = command(*longer, cwd=here)
    if older and elsewhere:
        assert_fails(result, 3, f"{before[-1]['run']}, from which the student in {out} learns, is not there")
    else:
        assert "student 3/3" in result.stderr
        assert json.loads(result.stdout)["assistants"] == before
    assert ": student" not in result.stderr
    assert not (here / "runs" / "assistants").exists() or here == home


@pytest.mark.slow
def test_another_process_waits_for_an_assistant_that_is_made(
    command: Command, start: Start, tiny_recipe: Path, chained: tuple[Path, Path], tmp_path: Path
) -> None:
    home = shutil.copytree(chained[0], tmp_path / "home")
    first = json.loads((chained[1] / "manifest.json").read_text())["assistants"][0]["run"]
    with FileLock(home / f"{first}.lock"):
        process = start("distill", tiny_recipe, *CHAIN, *SEED, cwd=home)
        until(process, "waiting for it")
        assert process.poll() is None
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_sweep_of_students_shares_assistants(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    one, other = "{model: resnet10t, args: {channels: [8, 8, 8, 8]}}", SECOND
    chain = ("--set", f"teacher.assistants=[{FIRST}]")
    result = command("sweep", tiny_recipe, "--set", f"student={one},{other}", *chain, "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "in lockstep" in result.stderr
    lines = result.stderr.splitlines()
    made = [number for number, line in enumerate(lines) if "assistant 1, resnet10t: student 2/2" in line]
    students = [number for number, line in enumerate(lines) if "student 1/2" in line and "assistant" not in line]
    assert len(made) == 1
    assert len(students) == 2
    assert made[0] < min(students)
    (assistant,) = tmp_path.glob("runs/assistants/*/manifest.json")
    sha256 = json.loads(assistant.read_text())["student_sha256"]
    for row in json.loads(result.stdout)["runs"]:
        manifest = json.loads((tmp_path / row["run"] / "manifest.json").read_text())
        assert [entry["sha256"] for entry in manifest["assistants"]] == [sha256]
    _, alone, _ = run_of(command, tiny_recipe, *chain, "--set", f"student={other}", cwd=tmp_path)
    assert alone["student_sha256"] == json.loads(result.stdout)["runs"][1]["student_sha256"]


LONG_CHAIN = ("--set", "teacher.epochs=1", "--set", f"teacher.assistants=[{FIRST}]")


@pytest.fixture(scope="module")
def whole(command: Command, long_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The manifest of a run with an assistant that nothing disturbs."""
    _, manifest, _ = run_of(command, long_recipe, *LONG_CHAIN, cwd=tmp_path_factory.mktemp("whole"))
    return manifest


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.faults)])
def test_stopped_while_an_assistant_is_trained_it_goes_on_to_the_same_weights(
    command: Command, start: Start, long_recipe: Path, whole: dict[str, Any], tmp_path: Path, number: signal.Signals
) -> None:
    parts = tmp_path / "parts"
    process = start("distill", long_recipe, *LONG_CHAIN, cwd=parts)
    until(process, "assistant 1, resnet10t: student 3/6")
    process.send_signal(number)
    process.communicate()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    (folder,) = parts.glob("runs/assistants/*/manifest.json")
    assert json.loads(folder.read_text())["status"] == "running"
    _, resumed, errors = run_of(command, long_recipe, *LONG_CHAIN, "--resume", cwd=parts)
    assert "assistant 1, resnet10t: student" in errors
    assert "going on from epoch" in errors
    assert resumed["student_sha256"] == whole["student_sha256"]
    assert resumed["assistants"][0]["sha256"] == whole["assistants"][0]["sha256"]


@pytest.mark.slow
def test_kept_logits_are_those_of_the_supervising_assistant(
    command: Command, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Two sets: of the teacher, for the assistant, and of the assistant, for the student."""
    result = command(
        *("distill", tiny_recipe, "--set", f"teacher.assistants=[{FIRST}]", "--set", "teacher.cache.views=1"),
        cwd=tmp_path,
        COMPRESS_CACHE=str(tmp_path / "cache"),
    )
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "cache" / "teacher-logits").glob("*/"))) == 2


@pytest.mark.slow
def test_pruning_keeps_assistants_that_a_run_refers_to(
    command: Command, chained: tuple[Path, Path], tmp_path: Path
) -> None:
    home = shutil.copytree(chained[0], tmp_path / "home")
    assert command("runs", "prune", "--yes", cwd=home).returncode == 0
    assert len(list(home.glob("runs/assistants/*/student/model.safetensors"))) == 2
    shutil.rmtree(home / chained[1].relative_to(chained[0]))
    assert command("runs", "prune", "--yes", cwd=home).returncode == 0
    assert not list(home.glob("runs/assistants/*/manifest.json"))


@pytest.mark.parametrize(
    ("assistants", "terms", "words"),
    [
        ("[resnte26]", "[]", ["assistant 1, resnte26: ", "no model 'resnte26'", "Did you mean resnet26"]),
        ("[resnet10t, {model: resnet10t, args: {widht: 3}}]", "[]", ["assistant 2, resnet10t: ", "timm cannot make"]),
        (
            f"[{FIRST}, mobilenetv3_small_050]",
            "[{name: fitnet, student: layer3, teacher: layer3}]",
            ["from assistant 1, resnet10t to assistant 2, mobilenetv3_small_050: ", "student has no feature 'layer3'"],
        ),
        (
            "[mobilenetv3_small_050]",
            "[{name: fitnet, teacher: layer3}]",
            ["from assistant 1, mobilenetv3_small_050 to the student: ", "teacher has no feature 'layer3'"],
        ),
    ],
)
def test_an_assistant_that_cannot_be_is_exit_2_before_a_teacher_is_trained(
    command: Command, tiny_recipe: Path, tmp_path: Path, assistants: str, terms: str, words: list[str]
) -> None:
    chain = ("--set", f"teacher.assistants={assistants}", "--set", f"supervision.terms={terms}")
    result = command("distill", tiny_recipe, *chain, "--set", "data.image_size=32", cwd=tmp_path)
    assert_fails(result, 2, *words)
    assert not list(tmp_path.glob("runs/teachers/*"))


@pytest.mark.slow
def test_an_assistant_larger_than_its_teacher_is_a_warning(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    large = "{model: resnet10t, args: {channels: [8, 8, 16, 24]}}"
    chain = ("--set", f"teacher.assistants=[{FIRST}, {large}]", "--set", "train.epochs=1", "--set", "teacher.epochs=1")
    _, _, errors = run_of(command, tiny_recipe, *chain, cwd=tmp_path)
    (warning,) = [line for line in errors.splitlines() if line.startswith("warning: ")]
    assert "assistant 2, resnet10t, has more parameters than assistant 1, resnet10t" in warning
    assert errors.index("warning: ") < errors.index("teacher 1/1")
    weights = [load_file(path) for path in tmp_path.glob("runs/assistants/*/student/model.safetensors")]
    assert len(weights) == 2
