"""Killed at any moment, or told to stop: the run goes on to the very weights of one that nothing disturbed."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.command import Command, Start, faulty, leftovers, metrics, snapshot, until, weights

pytestmark = pytest.mark.faults
EARLY = ["data: ", "student: ", *(f"teacher {epoch}/6" for epoch in range(1, 7))]
LATE = ["teacher: top1", *(f"student {epoch}/6" for epoch in range(1, 6))]


def finish(command: Command, recipe: Path, home: Path, expected: bytes) -> None:
    """Resumes: the weights must be the expected ones, the log whole, and nothing of the killed process left."""
    result = command("distill", recipe, "--resume", "--json", cwd=home)
    assert result.returncode == 0, result.stderr
    assert weights(home) == expected
    lines = metrics(home / json.loads(result.stdout)["run"])
    assert [(line["phase"], line["epoch"]) for line in lines] == [
        (phase, epoch) for phase in ("teacher", "student") for epoch in range(len(lines) // 2)
    ]
    assert not leftovers(home)


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_two_random_moments_it_resumes_to_the_same_weights(
    command: Command, start: Start, long_recipe: Path, tmp_path: Path, undisturbed: bytes, seed: int
) -> None:
    """Once while the teacher is trained and once while the student is: up to 0.3 s, about an epoch, after a line."""
    chance = random.Random(seed)
    for lines in (EARLY, LATE):
        process = start("distill", long_recipe, "--resume", cwd=tmp_path)
        until(process, lines[seed * len(lines) // 10])
        time.sleep(0.3 * chance.random())
        process.kill()
        process.communicate()
    (manifest,) = tmp_path.glob("runs/*/manifest.json")
    if json.loads(manifest.read_text())["status"] == "finished":  # on a machine faster than expected
        assert weights(tmp_path) == undisturbed
    else:
        finish(command, long_recipe, tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("event", "path", "nth"),
    [
        ("os.rename", r"teachers/\w+/checkpoints/\.epoch-00002.*safetensors", 1),
        ("os.rename", r"teachers/\w+/checkpoints/\.epoch-00002.*json", 1),
        ("os.rename", r"teachers/\w+/model$", 1),
        ("os.rename", r"long-.*/teacher$", 1),
        ("open", r"long-.*/checkpoints/\.epoch-00003.*safetensors", 2),
        ("os.rename", r"long-.*/checkpoints/\.epoch-00003.*json", 1),
        ("os.remove", r"long-.*/checkpoints/epoch-00001.*json", 1),
        ("os.rename", r"long-.*/student$", 1),
        ("os.rename", r"long-.*/\.manifest\.json", 2),
    ],
)
def test_killed_inside_a_write_it_resumes_to_the_same_weights(
    command: Command, long_recipe: Path, tmp_path: Path, undisturbed: bytes, event: str, path: str, nth: int
) -> None:
    result = command("distill", long_recipe, cwd=tmp_path, **faulty(f"kill {event} {path} {nth}"))
    assert result.returncode == -signal.SIGKILL, result.stderr
    finish(command, long_recipe, tmp_path, undisturbed)


@pytest.fixture(scope="module")
def exported(command: Command, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The ONNX file of an export that nothing disturbs, from a copy of the run."""
    run = tmp_path_factory.mktemp("exported") / finished.name
    shutil.copytree(finished, run)
    result = command("export", run, cwd=run.parent)
    assert result.returncode == 0, result.stderr
    return (run / "export" / "student.onnx").read_bytes()


@pytest.mark.parametrize(
    ("event", "path"),
    [("open", r"export/\.student\.onnx"), ("os.rename", r"export/\.student\.onnx"), ("os.rename", r"\.export\.json")],
)
def test_killed_inside_an_export_the_run_is_untouched_and_the_next_export_is_the_same(
    command: Command, finished: Path, tmp_path: Path, exported: bytes, event: str, path: str
) -> None:
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    before = snapshot(run)
    result = command("export", run, cwd=tmp_path, **faulty(f"kill {event} {path} 1"))
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert {name: content for name, content in snapshot(run).items() if name in before} == before
    result = command("export", run, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert not leftovers(run)
    assert (run / "export" / "student.onnx").read_bytes() == exported


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_a_signal_saves_within_30_s_and_resume_is_bit_exact(
    command: Command,
    start: Start,
    long_recipe: Path,
    tmp_path: Path,
    undisturbed: bytes,
    number: signal.Signals,
    phase: str,
) -> None:
    process = start("distill", long_recipe, cwd=tmp_path)
    until(process, f"{phase} 3/6")
    time.sleep(0.1)
    sent = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    assert process.returncode == 128 + number
    assert errors.strip().splitlines()[-1] == "error: interrupted. Give the same command again, with --resume."
    assert "Traceback" not in errors
    (marker,) = [max(tmp_path.glob(f"runs/{'teachers/' if phase == 'teacher' else ''}*/checkpoints/*.json"))]
    assert json.loads(marker.read_text())["step"] > 0, "it was not in the middle of an epoch"
    finish(command, long_recipe, tmp_path, undisturbed)


@pytest.mark.parametrize("wait", [0.0, 0.7, 1.4])
def test_more_signals_during_the_save_corrupt_nothing(
    command: Command,
    start: Start,
    long_recipe: Path,
    tmp_path: Path,
    undisturbed: bytes,
    wait: float,
) -> None:
    """Each sync takes 0.3 s, so that the later signals come inside the save and inside the tidying up after it."""
    process = start("distill", long_recipe, cwd=tmp_path, **faulty("slow-sync 0.3"))
    until(process, "teacher 1/6")
    process.terminate()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (143, 130)
    assert errors.strip().splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors
    finish(command, long_recipe, tmp_path, undisturbed)


def test_a_storm_of_signals_until_the_end_is_still_one_line(
    command: Command, start: Start, long_recipe: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    process = start("distill", long_recipe, cwd=tmp_path)
    until(process, "teacher 2/6")
    process.terminate()
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    errors = process.communicate()[1]
    assert process.returncode in (143, 130), errors
    assert errors.strip().splitlines()[-1].startswith("error: interrupted")
    assert "Traceback" not in errors
    finish(command, long_recipe, tmp_path, undisturbed)


def test_a_signal_while_images_are_decoded_is_one_line(start: Start, tiny_recipe: Path, tmp_path: Path) -> None:
    """Sent to the whole group of processes, as a terminal's Ctrl-C is, so that the decoders get it, too."""
    pixels = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    for split, count in (("train", 2_200), ("val", 4)):
        for name in ("a", "b"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "0.png")
            for number in range(1, count):
                shutil.copy(folder / "0.png", folder / f"{number}.png")
    override = f"data.root={tmp_path / 'data'}"
    process = start(
        "distill", tiny_recipe, "--set", override, cwd=tmp_path / "home", options={"start_new_session": True}
    )
    until(process, "decoding")
    time.sleep(1.5)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("error: interrupted")
    assert not list(Path(os.environ["COMPRESS_CACHE"], "data").glob("*.tmp"))
