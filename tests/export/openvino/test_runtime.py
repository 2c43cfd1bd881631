"""OpenVINO answers as torch and ONNX Runtime do, and computes in what it is told."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import pytest
from torch import nn

from compress.data.decode import Square
from compress.system.errors import InputError
from export.onnx import export_preprocessing
from export.openvino import OpenVinoPictures, OpenVinoRuntime, Session, core, own_execution, session_options
from export.runtimes import OrtRuntime, PictureRuntime
from tests.helpers.classifiers import MEAN, SIZE, STD, Digits, Exported, float_logits
from tests.helpers.signals import assert_signals_are_heard

has_bf16 = pytest.mark.skipif(own_execution() != "bf16", reason="this CPU has no bf16")


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_it_gives_the_logits_of_torch_at_every_batch(name: str, exported: Callable[[str], Exported]) -> None:
    model = exported(name)
    runtime = OpenVinoRuntime(model.path, MEAN, STD, threads=1)
    for batch in (1, 2, 7):
        expected = float_logits(model.model, model.images[:batch])
        np.testing.assert_allclose(runtime(model.images[:batch]), expected, atol=2e-4, rtol=2e-4)


def test_it_gives_the_logits_of_onnx_runtime_whatever_its_batch(trained_onnx: Path, data: Digits) -> None:
    images = data.eval_images[:37]
    expected = OrtRuntime(trained_onnx, MEAN, STD, threads=1)(images)
    np.testing.assert_allclose(OpenVinoRuntime(trained_onnx, MEAN, STD, batch_size=8)(images), expected, atol=1e-4)


@has_bf16
def test_bf16_is_computed_only_where_it_is_asked_for(trained: nn.Module, trained_onnx: Path, data: Digits) -> None:
    expected = float_logits(trained, data.eval_images)
    exact, coarse = (
        OpenVinoRuntime(trained_onnx, MEAN, STD, execution=execution)(data.eval_images) for execution in ("f32", "bf16")
    )
    scale = np.abs(expected).max()
    assert np.abs(exact - expected).max() < 1e-5 * scale
    assert 1e-3 * scale < np.abs(coarse - expected).max() < 5e-2 * scale


def test_openvino_takes_the_options_as_they_are_said(trained_onnx: Path) -> None:
    compiled = core().compile_model(str(trained_onnx), "CPU", session_options(1, "f32"))
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert compiled.get_property("NUM_STREAMS") == 1
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32


def test_what_it_computes_in_by_itself_is_what_a_session_without_options_has(trained_onnx: Path) -> None:
    own = core().compile_model(str(trained_onnx), "CPU").get_property("INFERENCE_PRECISION_HINT")
    assert own.to_string() == own_execution()


def test_a_signal_is_heard_after_two_models_that_ended_in_the_order_in_which_they_began(trained_onnx: Path) -> None:
    assert_signals_are_heard(f"""
        from export.openvino import Session
        def opened():
            session = Session(Path({str(trained_onnx)!r}))
            return session, session.run(np.zeros((1, 3, 16, 16), np.float32))
    """)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_pictures_of_any_size_are_seen_as_by_onnx_runtime(
    fit: str, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    front, model = tmp_path / "front.onnx", exported("resnet18").path
    export_preprocessing(front, Square(SIZE, crop_pct=0.875, fit=fit), mean=MEAN, std=STD)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    pictures = [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 32), (90, 61), (40, 130))]
    expected = PictureRuntime(model, front, threads=1)(pictures)
    np.testing.assert_allclose(OpenVinoPictures(model, front, threads=1)(pictures), expected, atol=1e-2)


def test_files_that_are_no_models_are_input_errors_of_one_line(trained_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "half.onnx").write_bytes(trained_onnx.read_bytes()[:1000])
    (tmp_path / "other.xml").write_text("<net>")
    for name in ("half.onnx", "other.xml", "none.onnx"):
        with pytest.raises(InputError, match=name) as caught:
            Session(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_images_of_another_size_are_an_input_error(trained_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"student\.onnx does not run in OpenVINO on input \(2, 3, 20, 20\)"):
        OpenVinoRuntime(trained_onnx, MEAN, STD)(np.zeros((2, 20, 20, 3), np.uint8))
