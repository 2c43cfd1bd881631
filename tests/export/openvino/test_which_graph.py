"""The INT8 graph for OpenVINO is one that it runs."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from compress.system.errors import GateError
from export.onnx import INPUT_NAME
from export.openvino import Session
from export.openvino.fastest import fastest
from export.pick.graphs import make_graphs

SIZE = 32


def test_the_fastest_is_of_those_that_run(trained_onnx: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(trained_onnx.read_bytes()[:1000])
    assert fastest([damaged, trained_onnx], 1) == trained_onnx
    assert "OpenVINO does not run damaged.onnx: " in caplog.text
    with pytest.raises(GateError, match="OpenVINO runs none of the INT8 graphs"):
        fastest([damaged], 1)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort", "trt"])
def test_edgenext_in_int8_answers_as_in_onnx_runtime(target: str, tmp_path: Path) -> None:
    """OpenVINO 2026.4 did not compile it where the convolution of its positions was quantised."""
    path = make_graphs("edgenext_xx_small", tmp_path, image_size=SIZE, threads=1).int8[target]
    inputs = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), dtype=np.float32)
    expected = np.asarray(onnxruntime.InferenceSession(path).run(None, {INPUT_NAME: inputs})[0])
    given = Session(path, threads=1).run(inputs)
    assert np.abs(given - expected).max() < 0.1 * np.abs(expected).max()
