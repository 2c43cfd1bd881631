"""FP16 files: their types, and their logits against torch in float32."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from compress.system.errors import GateError
from export.onnx import to_fp16
from tests.helpers.classifiers import ALL, Exported, float_logits, normalised, signal_to_noise_db


@pytest.mark.parametrize("name", ALL)
def test_fp16_is_half_inside_float_outside_and_close_to_torch(
    exported: Callable[[str], Exported], tmp_path: Path, name: str
) -> None:
    case, path = exported(name), tmp_path / "fp16.onnx"
    to_fp16(case.path, path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    floats = [value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)]
    assert floats == [TensorProto.FLOAT] * 2
    kinds = Counter(tensor.data_type for tensor in model.graph.initializer if tensor.data_type != TensorProto.INT64)
    assert set(kinds) == {TensorProto.FLOAT16}
    assert path.stat().st_size < 0.55 * case.path.stat().st_size
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = case.images[300:364]
    actual = session.run(["logits"], {"input": normalised(images)})[0]
    assert actual.dtype == np.float32
    # A single rounding to 11 bits is 66 dB; random nets without residuals (MobileOne) amplify it most.
    assert signal_to_noise_db(float_logits(case.model, images), actual) > 15
    assert {prop.key for prop in model.metadata_props} == {"class_names", "run"}


@pytest.mark.parametrize("value", [1e5, np.inf, np.nan])
def test_a_weight_outside_fp16_is_refused(trained_onnx: Path, tmp_path: Path, value: float) -> None:
    model = onnx.load(trained_onnx)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("weight"))
    broken = numpy_helper.to_array(weight).copy()
    broken.flat[0] = value
    weight.CopyFrom(numpy_helper.from_array(broken, weight.name))
    onnx.save(model, tmp_path / "broken.onnx")
    with pytest.raises(GateError, match="65504"):
        to_fp16(tmp_path / "broken.onnx", tmp_path / "fp16.onnx")
    assert not (tmp_path / "fp16.onnx").exists()
