"""An independent client reads the files: NVIDIA's Polygraphy, by its command line."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.int8 import Quantizer
from export.onnx import to_fp16
from tests.helpers.classifiers import MEAN, SIZE, STD, Exported

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("polygraphy") is None, reason="needs Polygraphy: pip install 'compress-timm[dev]'"
)


def polygraphy(*args: object) -> str:
    result = subprocess.run(
        [Path(sys.executable).with_name("polygraphy"), *map(str, args)], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", pytest.param("vit_tiny_patch16_224", marks=pytest.mark.faults)])
def test_polygraphy_inspects_and_runs_every_precision(
    exported: Callable[[str], Exported], tmp_path: Path, name: str
) -> None:
    case = exported(name)
    to_fp16(case.path, tmp_path / "fp16.onnx")
    quantizer = Quantizer(case.path, case.images[:8], MEAN, STD)
    quantizer.write(tmp_path / "int8.onnx", target="ort")
    quantizer.write(tmp_path / "int8.trt.onnx", target="trt")
    for path in (case.path, *sorted(tmp_path.iterdir())):
        seen = polygraphy("inspect", "model", path)
        assert f"{{input [dtype=float32, shape=('batch', 3, {SIZE}, {SIZE})]}}" in seen
        assert "{logits [dtype=float32, shape=('batch', 10)]}" in seen
        ran = polygraphy("run", path, "--onnxrt", "--input-shapes", f"input:[2,3,{SIZE},{SIZE}]")
        assert "PASSED" in ran
