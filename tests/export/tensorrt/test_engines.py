"""Engines by the real TensorRT parser and builder, without a GPU; what runs them is marked gpu."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import nn

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import GateError, InputError, MachineError, UsageError
from export.folder import sidecar
from export.int8 import Quantizer
from export.onnx import export_onnx, to_fp16
from export.records import EngineRecord
from export.tensorrt import build, tensorrt
from export.tensorrt.build import EngineOptions, build_engine
from export.tensorrt.lint import lint_for_tensorrt
from export.tensorrt.sidecar import check_engine
from tests.helpers.classifiers import ARCHITECTURES, MEAN, STD, Digits, Exported, float_logits, normalised
from tests.helpers.paths import ROOT

BATCHES = (1, 4, 16)
BUILT = [pytest.param(name, marks=[] if name == "resnet18" else pytest.mark.slow) for name in ARCHITECTURES]


@pytest.fixture(scope="module")
def variants(trained_onnx: Path, data: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("variants")
    to_fp16(trained_onnx, folder / "fp16.onnx")
    quantizer = Quantizer(trained_onnx, data.train_images[:128], MEAN, STD)
    quantizer.write(folder / "int8.trt.onnx", target="trt")
    quantizer.write(folder / "int8.onnx", target="ort")
    return {
        "fp32": trained_onnx,
        "fp16": folder / "fp16.onnx",
        "int8": folder / "int8.trt.onnx",
        "for onnxruntime": folder / "int8.onnx",
    }


def capabilities() -> tuple[str, ...]:
    """TensorRT for RTX builds for GPUs that are not here; TensorRT only for the one that is."""
    return ("89",) if hasattr(tensorrt(), "ComputeCapability") else ()


def built(source: Path, engine: Path, precision: str = "fp32", **options: object) -> EngineRecord:
    """options: the fields of EngineOptions."""
    settings: dict = {"batches": BATCHES, "compute_capabilities": capabilities(), **options}
    return build_engine(source, engine, precision=precision, options=EngineOptions(**settings))  # type: ignore[arg-type]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(phase, done, total) of what a terminal would show."""
    seen: list[tuple[str, int, int]] = []
    monkeypatch.setattr(build, "phases", lambda: contextlib.nullcontext(lambda *step: seen.append(step)))
    return seen


@pytest.mark.parametrize("name", BUILT)
def test_every_architecture_builds_in_every_precision(
    exported: Callable[[str], Exported], builder: None, tmp_path: Path, name: str
) -> None:
    case = exported(name)
    to_fp16(case.path, tmp_path / "fp16.onnx")
    Quantizer(case.path, case.images[:8], MEAN, STD).write(tmp_path / "int8.onnx", target="trt")
    layers = len([m for m in case.model.modules() if isinstance(m, nn.Linear)])
    sizes = {}
    for precision, source in (("fp32", case.path), ("fp16", tmp_path / "fp16.onnx"), ("int8", tmp_path / "int8.onnx")):
        assert lint_for_tensorrt(source) == []
        path = tmp_path / f"{precision}.engine"
        info = built(source, path, precision)
        ours = info.layers[precision] + (info.layers["fp16"] if precision == "int8" else 0)
        assert ours == sum(info.layers.values()) > layers
        assert info.layers[precision] > info.layers["fp16"] or precision != "int8"
        sizes[precision] = path.stat().st_size
    assert sizes["fp16"] < 0.8 * sizes["fp32"]


def test_sidecar_describes_the_engine(
    variants: dict[str, Path], builder: None, tmp_path: Path, steps: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "student.int8.engine"
    options = EngineOptions(BATCHES, compute_capabilities=capabilities())
    cache = tmp_path / "timing.cache"
    build_engine(variants["int8"], path, precision="int8", options=options, timing_cache=cache)
    content = json.loads(sidecar(path).read_text())
    assert sidecar(path).name == "student.int8.engine.json"
    assert content["library"] == tensorrt().__name__
    assert content["version"] == tensorrt().__version__
    assert content["precision"] == "int8"
    assert content["batches"] == [1, 4, 16]
    assert content["layers"] == {"fp32": 0, "fp16": 1, "int8": 4}
    for key, file in (("engine_sha256", path), ("onnx_sha256", variants["int8"])):
        digest = subprocess.run(["sha256sum", file], capture_output=True, text=True, check=True).stdout.split()[0]
        assert content[key] == digest
    assert check_engine(path).engine_bytes == path.stat().st_size
    assert all(0 < done <= total for _, done, total in steps)
    assert "Building engine" in {phase for phase, _, _ in steps}
    assert cache.exists() == (not tensorrt().__name__.startswith("tensorrt_rtx")), "TensorRT for RTX has none"


@pytest.mark.parametrize("damage", ["engine", "no engine", "no sidecar", "sidecar"])
def test_an_engine_that_is_not_its_sidecars_is_refused(
    variants: dict[str, Path], builder: None, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "s.engine"
    built(variants["fp32"], path)
    if damage == "engine":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "no engine":
        path.unlink()
    elif damage == "no sidecar":
        sidecar(path).unlink()
    else:
        sidecar(path).write_text("{}")
    with pytest.raises(InputError, match=r"s\.engine"):
        check_engine(path)


@pytest.mark.parametrize(("source", "asked"), [("fp32", "fp16"), ("fp16", "fp32"), ("fp32", "int8"), ("int8", "fp32")])
def test_a_network_of_another_precision_fails_the_gate(
    variants: dict[str, Path], builder: None, tmp_path: Path, source: str, asked: str
) -> None:
    with pytest.raises(GateError, match=f"{asked} was asked"):
        built(variants[source], tmp_path / "s.engine", asked)
    assert not list(tmp_path.iterdir())


def test_parser_errors_name_node_and_operator(variants: dict[str, Path], builder: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\w+_\w+Linear \(\w+Linear\): "):
        built(variants["for onnxruntime"], tmp_path / "s.engine", "int8", compute_capabilities=())
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot parse"):
        built(tmp_path / "junk.onnx", tmp_path / "s.engine", compute_capabilities=())
    with pytest.raises(InputError, match="cannot read"):
        built(tmp_path / "none.onnx", tmp_path / "s.engine", compute_capabilities=())


def test_unknown_capability_and_unordered_batches_are_usage_errors(
    variants: dict[str, Path], builder: None, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="33"):
        built(variants["fp32"], tmp_path / "s", compute_capabilities=["33"])
    with pytest.raises(UsageError, match="order"):
        built(variants["fp32"], tmp_path / "s", batches=(4, 1, 16), compute_capabilities=())


def test_a_failed_build_gives_tensorrts_reason_and_keeps_the_earlier_engine(
    variants: dict[str, Path], builder: None, tmp_path: Path
) -> None:
    path = tmp_path / "s.engine"
    path.write_bytes(b"earlier")
    with pytest.raises(MachineError, match="workspace"):
        built(variants["fp32"], path, workspace_mb=0)
    assert path.read_bytes() == b"earlier"
    assert os.listdir(tmp_path) == ["s.engine"]


def test_an_interrupt_stops_the_build(
    variants: dict[str, Path], builder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(phase: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "phases", lambda: contextlib.nullcontext(interrupt))
    with pytest.raises(KeyboardInterrupt):
        built(variants["fp32"], tmp_path / "s.engine")
    assert not list(tmp_path.iterdir())


WITHOUT_LIBRARIES = """
import sys
sys.modules["tensorrt"] = sys.modules["tensorrt_rtx_bindings"] = None  # how Python marks what cannot be imported
from pathlib import Path
from compress.system.errors import MachineError
from export.tensorrt.build import EngineOptions, build_engine
try:
    build_engine(Path(sys.argv[1]), Path("s.engine"), precision="fp32", options=EngineOptions((1, 1, 1)))
except MachineError as error:
    print(error.code, error)
"""


def test_without_any_library_it_says_what_to_install(trained_onnx: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_LIBRARIES, str(trained_onnx)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert result.stdout.startswith("4 "), result.stderr
    assert f"{DISTRIBUTION}[trt]" in result.stdout
    assert f"{DISTRIBUTION}[trt-rtx]" in result.stdout


def test_an_engine_of_another_library_is_not_opened(variants: dict[str, Path], builder: None, tmp_path: Path) -> None:
    from export.tensorrt import EngineRunner

    path = tmp_path / "s.engine"
    built(variants["fp32"], path)
    content = json.loads(sidecar(path).read_text())
    sidecar(path).write_text(json.dumps({**content, "version": "0.1"}))
    with pytest.raises(MachineError, match=r"0\.1"):
        EngineRunner(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_running_is_a_machine_error(variants: dict[str, Path], builder: None, tmp_path: Path) -> None:
    from export.tensorrt import EngineRunner

    path = tmp_path / "s.engine"
    built(variants["fp32"], path)
    with pytest.raises(MachineError, match="CUDA"):
        EngineRunner(path)


def test_a_partial_last_batch_is_filled_up_and_gets_its_own_answers(trained: nn.Module, data: Digits) -> None:
    from export.tensorrt import EngineRuntime

    seen = []

    def runner(inputs: torch.Tensor) -> torch.Tensor:
        seen.append(len(inputs))
        with torch.inference_mode():
            return trained(inputs)

    engine = Mock(side_effect=runner, device="cpu", info=Mock(batches=(1, 4, 16)))
    logits = EngineRuntime(engine, MEAN, STD)(data.eval_images[:37])
    assert seen == [16, 16, 16]
    np.testing.assert_allclose(logits, float_logits(trained, data.eval_images[:37]), atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-2), ("fp16", 5e-2), ("int8", 1.0)])
def test_engine_logits_equal_torch_on_a_gpu(
    trained: nn.Module,
    variants: dict[str, Path],
    data: Digits,
    builder: None,
    tmp_path: Path,
    precision: str,
    tolerance: float,
) -> None:
    from export.tensorrt import EngineRunner, EngineRuntime

    path = tmp_path / "s.engine"
    built(variants[precision], path, precision, compute_capabilities=())
    runner = EngineRunner(path)
    for batch in (1, 7, 16, 7):
        images = data.eval_images[:batch]
        actual = runner(torch.from_numpy(normalised(images)).cuda()).cpu().numpy()
        np.testing.assert_allclose(actual, float_logits(trained, images), atol=tolerance)
    launches = [runner.launch(torch.from_numpy(normalised(data.eval_images[n : n + 4])).cuda()) for n in (0, 4)]
    for launch in launches:
        launch.replay()
    runner.stream.synchronize()
    found = torch.cat([launch.output for launch in launches]).cpu().numpy()
    np.testing.assert_allclose(found, float_logits(trained, data.eval_images[:8]), atol=tolerance)
    for batch in (0, 17):
        with pytest.raises(InputError, match="outside the engine's profile"):
            runner(torch.zeros(batch, 3, 16, 16, device="cuda"))
    logits = EngineRuntime(runner, MEAN, STD)(data.eval_images)
    assert (logits.argmax(1) == data.eval_labels).mean() > 0.9


class OneDimensional(nn.Module):
    """A convolution over the row of all places, as in EfficientViM."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.row, self.head = nn.Conv2d(3, 32, 3, 2, 1), nn.Conv1d(32, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.row(self.stem(images).relu().flatten(2)).relu().mean(2))


def test_a_convolution_in_one_dimension_is_in_int8(builder: None, data: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_onnx(OneDimensional().eval(), tmp_path / "fp32.onnx", image_size=16, metadata={})
    Quantizer(tmp_path / "fp32.onnx", data.train_images[:64], MEAN, STD).write(tmp_path / "int8.onnx", target="trt")
    record = built(tmp_path / "int8.onnx", tmp_path / "engine", "int8")
    assert record.layers["int8"] >= 2
