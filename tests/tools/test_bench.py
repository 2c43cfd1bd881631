"""tools/bench: contestants take turns, results are one JSON object, errors one line, and the real scripts run."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import harness
import numpy as np
import pytest
import quantizers
import scaling
import scaling_points
import torch
from PIL import Image

from compress.data.augment import Images
from compress.recipe import Augment
from compress.system.errors import MachineError
from tests.helpers.command import assert_fails
from tests.helpers.paths import ROOT

BENCH = ROOT / "tools" / "bench"
TINY = ("--student", "resnet18", "--teacher", "resnet18", "--batch", "4", "--steps", "1", "--rounds", "1")


def bench(name: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_contestants_take_turns_in_going_first_and_the_first_round_warms_up() -> None:
    called: list[str] = []
    contestants = {name: lambda name=name: called.append(name) for name in "abc"}
    seconds = harness.take_turns(contestants, 3, lambda: called.append("|"))
    assert "".join(called).replace("||", "|") == "|a|b|c|b|c|a|c|a|b|a|b|c|"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_each_contestant_gets_its_own_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(harness, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def lasts(seconds: float) -> harness.Work:
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    seconds = harness.take_turns({"slow": lasts(4.0), "fast": lasts(1.0)}, 2, lasts(0.5))
    assert seconds == {"slow": [4.5, 4.5], "fast": [1.5, 1.5]}
    assert harness.per_second(9, seconds["fast"]) == 6.0


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine is three times as slow in the second round, for both: the ratio stays."""
    found = harness.spread("ratio", harness.ratios([1.0, 3.0, 1.2], [2.0, 6.0, 2.0]))
    assert found == {"ratio": 0.5, "ratio_min": 0.5, "ratio_max": 0.6}


def test_a_result_is_shown_with_its_machine(capsys: pytest.CaptureFixture[str]) -> None:
    harness.show({"ratio": 0.5}, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["ratio"] == 0.5
    assert shown["machine"]["torch"] == harness.torch.__version__
    harness.show({"ratio": 0.5}, as_json=False)
    first, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["ratio", "0.5"]
    assert last.startswith("machine")
    assert shown["machine"]["cpu"] in last


def test_a_cost_that_grows_faster_than_its_work_is_flagged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(work: Any, setting: Any, path: Path, seconds: float) -> Any:
        size = setting.size
        return scaling.Point(1e-6 * size**4, float(size**3), float(size**2), 1.0, 1.0)

    monkeypatch.setattr(scaling, "in_own_process", measured)
    monkeypatch.setattr(scaling, "write_images", lambda *_, **__: tmp_path)
    entry = scaling.measure_axis("size", [32, 64, 128], tmp_path, 0.0, 1)
    assert entry["exponents"]["flops"] == pytest.approx(3)
    assert entry["exponents"]["bytes_moved"] == pytest.approx(2)
    assert entry["exponents"]["seconds"] == pytest.approx(4)
    assert entry["flags"] == [
        f"size 32 to {to}: cost grows {by:.2f} x as much as work" for to, by in ((64, 2), (128, 4))
    ]


def test_a_batch_that_is_drawn_moves_its_own_bytes_and_not_those_of_the_data_set() -> None:
    pixels, labels = torch.zeros(1000, 16, 16, 3, dtype=torch.uint8), torch.zeros(1000, dtype=torch.int64)
    images = Images(pixels, labels, torch.full((3,), 0.5), torch.full((3,), 0.5))
    moved = scaling_points.BytesMoved()
    with moved:
        images.augmented(torch.arange(4), Augment(crop=2, flip=True), seed=0, epoch=0)
    floats = 4 * 16 * 16 * 3 * 4
    assert floats < moved.total < 10 * floats < pixels.numel()


@pytest.mark.skipif(importlib.util.find_spec("optimum") is not None, reason="Optimum is installed here")
def test_without_optimum_its_own_error_is_shown_and_ends_as_one_of_the_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = np.zeros((1, 3, 8, 8), dtype=np.float32)
    with pytest.raises(MachineError, match="optimum-onnx"):
        quantizers.with_optimum(tmp_path / "student.onnx", inputs, tmp_path, tmp_path)
    assert "No module named 'optimum'" in capfd.readouterr().err


@pytest.mark.slow
def test_the_loop_prints_one_json_object_with_its_ratio() -> None:
    result = bench("loop.py", *TINY, "--json")
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    speeds = found["loop_images_per_s"], found["roofline_images_per_s"]
    assert math.isclose(found["ratio"], speeds[0] / speeds[1], rel_tol=0.02)  # of one round, rounded
    assert "resnet18 -> resnet18, stock stem, 32 px, batch 4, bf16, kd" in found["setting"]


@pytest.mark.slow
def test_as_many_links_as_asked_for_are_streamed_and_drawn(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    asked = ("--photos", tmp_path / "photos", "--files", 100, "--files", 130, "--batches", 2)
    result = bench("files.py", *asked, "--plot", tmp_path / "files.png", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)["rows"]
    assert [row["files"] for row in rows] == [100, 130]
    assert rows == json.loads((tmp_path / "files.json").read_text())["rows"]
    assert all(row["first_s"] > 0 and row["images_per_s"] > 0 for row in rows)
    assert Image.open(tmp_path / "files.png").format == "PNG"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [("loop.py", ["--method", "kt"], "unknown method 'kt'"), ("data_parallel.py", [], "torchrun")],
)
def test_an_error_is_one_line_with_the_exit_code_of_the_command_line(
    tmp_path: Path, name: str, arguments: list[str], words: str
) -> None:
    assert_fails(bench(name, *arguments, cwd=tmp_path), 2, words)
