"""A candidate that does not open here, or does not take a batch, leaves the others."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from torch import nn

from compress.system.errors import InputError
from export.benchmark.candidates import Candidate, try_evaluate
from export.benchmark.results import Settings
from export.benchmark.timing import time_candidates
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits

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


def test_what_cannot_be_scored_says_why_and_only_what_others_are_compared_with_must_be(
    trained: nn.Module, trained_onnx: Path, data: Digits, tmp_path: Path
) -> None:
    broken, huge = tmp_path / "broken.onnx", tmp_path / "huge.onnx"
    broken.write_bytes(b"no graph")
    proto = onnx.load(trained_onnx)
    weight = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 2)
    weight.CopyFrom(onnx.numpy_helper.from_array(np.full(weight.dims, np.inf, np.float32), weight.name))
    onnx.save(proto, huge)
    images = data.eval_images[:16]
    for name, runtime in (("broken.onnx", "ort"), ("broken.onnx:openvino", "openvino")):
        assert "cannot open" in try_evaluate(candidate(broken, name, runtime), images, 1)
    for name, runtime in (("huge.onnx", "ort"), ("huge.onnx:openvino", "openvino")):
        assert try_evaluate(candidate(huge, name, runtime), images, 1) == f"{name} gives logits that are not finite"
    with pytest.raises(InputError, match="cannot open"):
        try_evaluate(candidate(broken, "student.onnx", "ort"), images, 1)
    given = try_evaluate(candidate(trained_onnx, "student.int8.onnx", "ort"), images, 1)
    np.testing.assert_allclose(given, float_logits(trained, images), atol=1e-4)


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
