"""What the processes of one run have in common: a folder, and teachers and assistants of as many processes."""

import json
import signal
import socket
from pathlib import Path

import pytest
import timm
from safetensors.torch import save_file

from compress.runs.folder import Run
from tests.helpers.command import Command, Start, leftovers, metrics, until
from tests.helpers.torchrun import Torchrun, ended

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("out", [pytest.param((), marks=pytest.mark.faults), ("--out",)], ids=["in runs", "elsewhere"])
def test_a_machine_that_does_not_share_the_working_folder_is_named_by_all(
    torchrun: Torchrun, tiny_recipe: Path, tmp_path: Path, out: tuple[str, ...]
) -> None:
    """Process 1 works in a folder of its own, as on a machine with another disk. With --out only that one is shared."""
    launch = "import os, runpy\nos.chdir(os.environ['RANK'])\nrunpy.run_module('compress', run_name='__main__')\n"
    (tmp_path / "launch.py").write_text(launch)
    for folder in ("0", "1", "shared"):
        (tmp_path / folder).mkdir()
    where = (*out, *([tmp_path / "shared" / "run"] if out else []))
    launcher = torchrun("distill", tiny_recipe, *where, cwd=tmp_path, program=(str(tmp_path / "launch.py"),))
    line = ended(launcher, 4)
    unseen = tmp_path / "0" / "runs" / ("teachers" if out else "")
    assert f"error: machine {socket.gethostname()} does not see {unseen}/" in line
    assert "the same working folder" in line
    assert not list((tmp_path / "1").iterdir())
    assert not leftovers(tmp_path)


TOGETHER = """\
data: {name: folder, root: DATA, image_size: 8, augment: {crop: 1}}
teacher:
  model: resnet10t
  args: {channels: [8, 8, 16, 16]}
  epochs: 1
  ensemble: [{model: resnet10t, args: {channels: [8, 8, 16, 16]}, seed: 1}]
  assistants: [{model: resnet10t, args: {channels: [8, 8, 8, 16]}}]
student: {model: resnet10t, args: {channels: [8, 8, 8, 8]}}
supervision: {method: ka+dtd, terms: [{name: adversarial, weight: 0.1}]}
train: {epochs: 1, batch_size: 16, lr: 0.05, quantize: int8, quantize_epochs: 1}
"""


@pytest.fixture
def together(torchrun: Torchrun, folder_data: Path, tmp_path: Path) -> Path:
    """The finished run of two processes in `first`, beside its recipe."""
    (tmp_path / "recipe.yaml").write_text(TOGETHER.replace("DATA", str(folder_data)))
    assert again(torchrun, tmp_path, "first").count("trained in runs/teachers") == 2
    return tmp_path


def again(torchrun: Torchrun, home: Path, name: str) -> str:
    """What was said by a run of that recipe in two processes, in the folder `name`."""
    launcher = torchrun("distill", "recipe.yaml", "--out", name, cwd=home)
    _, errors = launcher.communicate(timeout=300)
    assert launcher.returncode == 0, errors
    assert not leftovers(home / name)
    return errors


def test_teachers_assistants_a_discriminator_and_int8_go_together_in_two_processes(together: Path) -> None:
    manifest = json.loads((together / "first" / "manifest.json").read_text())
    assert manifest["processes"] == 2
    (assistant,) = manifest["assistants"]
    assert Run(together / assistant["run"]).manifest["student_sha256"] == assistant["sha256"]
    assert [line["phase"] for line in metrics(together / "first")] == ["student", "quantize"]


@pytest.mark.faults
def test_a_second_run_of_two_reuses_what_the_first_trained_and_one_process_does_not(
    together: Path, torchrun: Torchrun, command: Command
) -> None:
    assert "trained in runs/teachers" not in again(torchrun, together, "second")
    first, second = (json.loads((together / name / "manifest.json").read_text()) for name in ("first", "second"))
    assert first["assistants"] == second["assistants"]
    assert first["student_sha256"] == second["student_sha256"]
    alone = command("distill", "recipe.yaml", "--out", "alone", "--json", cwd=together)
    assert alone.stderr.count("trained in runs/teachers") == 2
    assert json.loads(alone.stdout)["assistants"][0]["run"] != first["assistants"][0]["run"]


@pytest.mark.faults
@pytest.mark.parametrize("source", ["train", "checkpoint"])
def test_begun_by_one_process_and_stopped_in_an_assistant_two_make_a_run_of_their_own_of_it(
    torchrun: Torchrun, start: Start, long_recipe: Path, tmp_path: Path, source: str
) -> None:
    """Its teacher is that of two, too, where it is trained; its assistant is in both cases."""
    weights = timm.create_model("resnet10t_smallstem", num_classes=3, channels=[8, 8, 16, 16]).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    where = f"checkpoint, checkpoint: {tmp_path / 'w.safetensors'}" if source == "checkpoint" else source
    teacher = f"teacher={{model: resnet10t, args: {{channels: [8, 8, 16, 16]}}, source: {where}}}"
    assistants = "teacher.assistants=[{model: resnet10t, args: {channels: [8, 8, 16, 8]}}]"
    recipe = (
        long_recipe,
        "--set",
        teacher,
        "--set",
        assistants,
        "--set",
        "teacher.epochs=1",
        "--set",
        "train.epochs=3",
    )
    process = start("distill", *recipe, "--out", "run", cwd=tmp_path)
    until(process, "assistant 1, resnet10t: student 1/3")
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    before = json.loads((tmp_path / "run" / "teacher" / "facts.json").read_text())["sha256"]
    sha256s = []
    for name, options in (("run", ["--resume"]), ("fresh", [])):
        launcher = torchrun("distill", *recipe, "--out", name, *options, "--json", cwd=tmp_path)
        output, errors = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, errors
        sha256s.append([json.loads(output)["teacher"]["sha256"], json.loads(output)["student_sha256"]])
    assert sha256s[0] == sha256s[1]
    assert (sha256s[0][0] != before) == (source == "train")
    assert len(list(tmp_path.glob("runs/assistants/*/manifest.json"))) == 2
