"""A candidate that does not open here, or does not take a batch, leaves the others."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from export.benchmark.candidates import Candidate
from export.benchmark.results import Settings
from export.benchmark.timing import time_candidates
from tests.helpers.classifiers import MEAN, STD, Digits

SETTINGS = Settings(runtimes=[], batches=[1, 3], threads=[1], min_seconds=0.0, min_runs=8, limits={})


def candidate(path: Path, name: str, runtime: Any, module: nn.Module | None = None) -> Candidate:
    return Candidate(name, "student", runtime, "fp32", path, "", 0, MEAN, STD, module)


@pytest.fixture
def of_one(trained_onnx: Path, tmp_path: Path) -> Path:
    """The file with a batch that is fixed to 1, as the largest profile of an engine fixes it."""
    proto = onnx.load(trained_onnx)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(proto, tmp_path / "one.onnx")
    return tmp_path / "one.onnx"


def test_a_batch_that_it_does_not_take_is_its_own_failure(
    trained: nn.Module, trained_onnx: Path, of_one: Path, data: Digits, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    candidates = [
        candidate(tmp_path, "student.torch", "torch", trained),
        candidate(trained_onnx, "student.onnx", "ort"),
        candidate(of_one, "one.onnx:openvino", "openvino"),
        candidate(tmp_path / "broken.onnx", "broken.onnx:openvino", "openvino"),
    ]
    images: dict[Any, np.ndarray] = {"student": data.eval_images[:16]}
    timed, aa, failed = time_candidates(candidates, images, SETTINGS, "student.torch")
    batches = {name: [(entry.batch, entry.scope) for entry in entries] for name, entries in timed.items()}
    whole = [(1, "model"), (1, "end-to-end"), (3, "model"), (3, "end-to-end")]
    assert batches == {
        "student.torch": whole,
        "student.onnx": whole,
        "one.onnx:openvino": whole[:2],
        "broken.onnx:openvino": [],
    }
    assert set(failed) == {"one.onnx:openvino", "broken.onnx:openvino"}
    assert failed["one.onnx:openvino"].startswith("batch 3: one.onnx does not run in OpenVINO on input (3,")
    assert "cannot open" in failed["broken.onnx:openvino"]
    assert [entry.batch for entry in aa] == [1, 3]
