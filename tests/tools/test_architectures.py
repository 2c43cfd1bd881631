"""The matrix of architectures: a sample through all stages for real, and what becomes of models that fail."""

import json
import re
from pathlib import Path
from typing import Any

import architectures
import pytest
from architectures_page import page
from zoo import ZOO

from tests.helpers.paths import ROOT

# The smallest of each kind that once crashed: shapes not found, Resize in FP16, a convolution with a shortcut.
SAMPLE = ("convnextv2_atto", "edgenext_xx_small", "mobilevit_xxs", "fastvit_sa12")


def test_the_matrix_has_90_architectures_that_timm_knows() -> None:
    import timm

    assert len(ZOO) >= 90
    assert not set(ZOO) - set(timm.list_models())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_goes_through_every_stage(name: str) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    row = architectures.in_own_process(name, 600, 8.0)
    assert row["failed"] is None
    assert row["onnx"]["diff"] < 1e-4
    assert row["fp16"]["snr_db"] > 20
    assert min(row["int8"][target]["coverage"] for target in ("ort", "trt")) >= 0.99
    assert set(row["rtx"]) == {"fp32", "fp16", "int8"}
    assert row["latency"]["int8_over_fp32"] > 0


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
