"""The matrix of architectures: a sample through all stages for real, and what becomes of models that fail."""

import json
import re
from pathlib import Path
from typing import Any

import architecture
import architectures
import numpy as np
import pytest
import torch
import zoo
from architectures_page import page
from onnx.reference import ReferenceEvaluator
from zoo import ZOO

from compress.system.errors import GateError
from export.runtimes import TorchRuntime, normalise
from tests.helpers.classifiers import Overflowing, small_net
from tests.helpers.paths import ROOT

# The smallest of each kind that once crashed: shapes not found, Resize in FP16, a convolution with a shortcut.
SAMPLE = ("convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "fastvit_sa12")
REPEATS = {"edgenext_xx_small", "mobilevit_xxs", "fastvit_sa12"}
"""For `make faults`: each takes one to two minutes of a core."""


def test_the_matrix_has_90_architectures_that_timm_knows() -> None:
    import timm

    assert len(ZOO) >= 90
    assert not set(ZOO) - set(timm.list_models())


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.faults) if n in REPEATS else n for n in SAMPLE])
def test_a_sample_goes_through_every_stage(name: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    row = architectures.in_own_process(name, 600, 8.0)
    assert row["failed"] is None
    assert row["onnx"]["diff"] < 1e-4
    assert row["fp16"]["snr_db"] > 20
    least = 0.98 if name == "edgenext_xx_small" else 0.99  # its positions, which see no pixels, stay in float
    assert min(row["int8"][target]["coverage"] for target in ("ort", "trt")) >= least
    assert set(row["rtx"]) == {"fp32", "fp16", "int8"}
    assert row["latency"]["int8_over_fp32"] > 0


def of_overflowing_net(folder: Path, images: np.ndarray) -> architecture.Architecture:
    """Its ONNX file is made. On black pictures nothing is large in it, on others values go far beyond FP16."""
    torch.manual_seed(0)
    inner = small_net().eval()
    model = Overflowing(inner, 3e5).eval()
    with torch.no_grad():
        black = torch.from_numpy(normalise(np.zeros((1, 32, 32, 3), np.uint8), zoo.MEAN, zoo.STD))
        inner[1].bias -= inner[:3](black).amax((0, 2, 3))
    case = architecture.Architecture("net", 32, folder, images, model, TorchRuntime(model, zoo.MEAN, zoo.STD)(images))
    architecture.export_onnx(model, case.file("fp32"), image_size=32, metadata={})
    case.keep("fp32")
    return case


def test_fp16_is_made_and_judged_as_an_export_does(tmp_path: Path) -> None:
    case = of_overflowing_net(tmp_path, zoo.pictures(32, architecture.PICTURES))
    assert architecture.fp16(case)["float_operators"] > 0
    with np.errstate(all="ignore"):
        evaluator = ReferenceEvaluator(str(case.files["fp16"]))
        (found,) = evaluator.run(None, {"input": normalise(case.images[:16], zoo.MEAN, zoo.STD)})
    assert np.isfinite(np.asarray(found)).all()


def test_a_net_that_overflows_in_fp16_fails(tmp_path: Path) -> None:
    images = zoo.pictures(32, architecture.PICTURES)
    images[: architecture.CALIBRATION] = 0
    case = of_overflowing_net(tmp_path, images)
    with pytest.raises(GateError, match="FP16 gives logits that are not finite"):
        architecture.fp16(case)
    assert "fp16" not in case.files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seconds", "memory_gb", "reason"),
    [
        ("no_such_model", 100, 8.0, "^timm: UsageError: timm cannot make no_such_model"),
        ("resnet10t", 0.1, 8.0, "^takes more than 0 s"),
        ("resnet10t", 100, 0.05, "^its process ended with|MemoryError"),  # by where the memory ends
    ],
)
def test_a_model_that_fails_is_a_row_with_the_reason(name: str, seconds: float, memory_gb: float, reason: str) -> None:
    row = architectures.in_own_process(name, seconds, memory_gb)
    assert row["model"] == name
    assert re.search(reason, row["failed"])


def test_rows_are_kept_as_they_come_and_not_made_again(tmp_path: Path) -> None:
    results, made = tmp_path / "results.jsonl", []

    def one(name: str) -> dict[str, Any]:
        made.append(name)
        if name == "c" and made.count("c") == 1:
            raise KeyboardInterrupt
        return {"model": name, "failed": None}

    with pytest.raises(KeyboardInterrupt):
        list(architectures.measure(["a", "b", "c"], results, False, one))
    assert [json.loads(line)["model"] for line in results.read_text().splitlines()] == ["a", "b"]
    assert [row["model"] for row in architectures.measure(["a", "b", "c"], results, False, one)] == ["a", "b", "c"]
    assert made == ["a", "b", "c", "c"]
    assert len(list(architectures.measure(["a"], results, True, one))) == 1
    assert made[-1] == "a"


def test_rows_of_other_versions_are_made_again(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps({"model": "a", "failed": None, "versions": {"torch": "1.0"}}) + "\n")
    (row,) = architectures.measure(["a"], results, False, lambda name: {"model": name, "failed": "again"})
    assert row["failed"] == "again"


def test_the_page_has_what_was_run_what_failed_and_what_is_left() -> None:
    rows = [
        {
            "model": "good",
            "size": 64,
            "parameters_m": 1.5,
            "onnx": {"diff": 1e-6},
            "fp16": {"snr_db": 50.0},
            "int8": {"ort": {"coverage": 1.0, "snr_db": 20.0}, "trt": {"coverage": 1.0, "snr_db": 19.0}},
            "rtx": {"fp32": {}, "fp16": {}, "int8": {}},
            "latency": {"fp32_ms": 2.0, "int8_over_fp32": 0.5, "fp16_over_fp32": 1.1},
            "failed": None,
        },
        {"model": "bad", "size": 32, "failed": "a | b"},
    ]
    text = page(rows, ["left"], {"cpu": "some"})
    assert "1 of 2 architectures" in text
    assert "| good | 64 | 1.5 | 1e-06 | 50.0 | 100% | 20.0 | 19.0 | all three | 2.0 | 0.5 | 1.1 |" in text
    assert "- `bad`: a \\| b" in text
    assert "- `left`" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {13}
    assert (ROOT / "recipes" / "results" / "architectures.md").exists()
