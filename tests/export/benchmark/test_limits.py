"""The limits of a benchmark: the gates by which the files were exported, and what --set makes of them."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from compress.recipe import BenchmarkLimits, Export
from compress.runs.folder import Run
from compress.system.errors import UsageError
from export import benchmark_run, export_run
from export.benchmark.candidates import Candidate, find_candidates
from export.benchmark.executions import gates
from export.benchmark.limits import Limits, limits_of
from export.folder import read_export
from export.gates import parity
from export.gates.parity import judge, paired_drop

BRIEFLY = {"batches": (1,), "threads": (1,), "min_seconds": 0.0, "min_runs": 2}


@pytest.fixture(scope="module")
def run(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Exported with limits that are not the recipe's."""
    run = Run(tmp_path_factory.mktemp("home") / finished.name)
    shutil.copytree(finished, run.path)
    loose = ["export.max_fp16_top1_drop=0.9", "export.min_agreement=0.1"]
    export_run(run, precisions=("fp32", "fp16"), threads=1, overrides=loose)
    return run


def test_a_benchmark_goes_by_the_limits_of_the_export_and_not_of_the_recipe(run: Run) -> None:
    assert run.recipe.export.max_fp16_top1_drop == 0.002
    found = benchmark_run(run, runtimes=("ort",), **BRIEFLY)
    assert found.settings.gates["max_fp16_top1_drop"] == 0.9
    assert found.settings.gates["min_agreement"] == 0.1
    assert found.settings.gates["max_int8_top1_drop"] == run.recipe.export.max_int8_top1_drop
    assert found.candidate("student.fp16.onnx").deployable


def test_set_goes_before_the_limits_of_the_export(run: Run) -> None:
    overrides = ["export.max_fp16_top1_drop=0.01", "benchmark.p90_ms=5"]
    limits = limits_of(run, overrides)
    assert (limits.gates.max_fp16_top1_drop, limits.gates.min_agreement) == (0.01, 0.1)
    assert limits.exported.max_fp16_top1_drop == 0.9
    assert limits.verdict.p90_ms == 5
    assert limits.changed
    assert not limits_of(run, ["benchmark.p90_ms=5"]).changed
    found = benchmark_run(run, runtimes=("ort",), overrides=overrides, **BRIEFLY)
    assert found.settings.gates["max_fp16_top1_drop"] == 0.01


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("export.calibration_images=3", "files are made by it.*compress export"),
        ("export.min_agrement=0.5", "min_agrement"),
        ("train.epochs=3", r"only benchmark\.KEY and export\.KEY can be set here"),
    ],
)
def test_what_makes_files_is_refused_with_the_reason(run: Run, override: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        benchmark_run(run, overrides=[override])


def test_files_that_passed_other_gates_are_judged_anew(run: Run) -> None:
    """By what their export measured: ONNX Runtime computes FP16 in FP32, where nothing is lost."""
    candidates = find_candidates(run, ("ort",))
    labels = np.arange(400) % 10
    right = np.eye(10, dtype=np.float32)[labels]
    wrong = right.copy()
    wrong[:40] = np.roll(wrong[:40], 1, axis=1)
    logits = {entry.name: right for entry in candidates} | {"student.torch": wrong}
    loose = Export(max_fp16_top1_drop=0.9, min_agreement=0.1)
    passed = Limits(BenchmarkLimits(), loose, loose)
    files = read_export(run).files
    lossy = {"drop": paired_drop(right, wrong, labels), "agreement": 0.9}
    files["student.fp16.onnx"] = files["student.fp16.onnx"].model_copy(update=lossy)

    def missed(chosen: list[Candidate], limits: Limits) -> dict[str, str]:
        found = gates(chosen, files, logits, labels, limits)
        return {name: gate.reason for name, gate in found.items() if gate.outcome == "FAIL"}

    assert missed(candidates, passed) == {}
    anew = missed(candidates, dataclasses.replace(passed, gates=Export()))
    assert list(anew) == ["student.fp16.onnx"]
    assert "loses 10.00 points" in anew["student.fp16.onnx"]
    few = dataclasses.replace(passed, gates=Export(max_fp16_top1_drop=0.101, min_agreement=0.1))
    gate = gates(candidates, files, logits, labels, few)["student.fp16.onnx"]
    needed = judge(right, wrong, labels, parity.Limits(0.101, 0.1)).images_to_decide
    assert (gate.outcome, gate.images_to_decide) == ("UNDECIDED", needed)
    assert needed is not None
    in_openvino = [_in_openvino(entry) for entry in candidates]
    logits |= {entry.name: wrong for entry in in_openvino if "fp16" in entry.name}
    assert missed(in_openvino, passed) == {}
    strict = Limits(BenchmarkLimits(), Export(), Export())
    assert list(missed(in_openvino, strict)) == ["student.fp16.onnx:openvino"]


def _in_openvino(candidate: Candidate) -> Candidate:
    return dataclasses.replace(candidate, name=f"{candidate.name}:openvino", runtime="openvino")
