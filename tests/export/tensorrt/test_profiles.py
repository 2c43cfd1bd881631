"""Which batches an engine is tuned for: those of the export, and those that a benchmark times."""

from pathlib import Path

from torch import nn

from compress.recipe import Export
from export.tensorrt import tensorrt
from export.tensorrt.build import EngineOptions, _configure
from export.tensorrt.parser import parse
from export.tensorrt.sidecar import check_engine
from tests.helpers.classifiers import Digits
from tests.helpers.exporting import export_to


def test_each_batch_that_is_timed_has_a_profile_of_its_own_beside_the_range() -> None:
    options = EngineOptions.of(Export(batches=[2, 8, 64]), [1, 32, 128])
    assert options.batches == (1, 8, 128)
    alone = [profile for profile in options.profiles if len(set(profile)) == 1]
    assert options.profiles[0] == (1, 8, 128)
    assert {profile[0] for profile in alone} == {1, 8, 32, 128}
    assert EngineOptions.of(Export()).batches == (1, 8, 64)


def test_the_library_takes_them_all(builder: None, trained_onnx: Path) -> None:
    options = EngineOptions.of(Export(compute_capabilities=_capabilities()), [1, 32])
    maker, network, refused = parse(trained_onnx)
    assert not refused
    assert _configure(tensorrt(), maker, network, options).num_optimization_profiles == len(options.profiles) == 5


def test_an_export_builds_engines_for_the_batches_of_the_benchmark(
    builder: None, trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    settings = Export(batches=[1, 4, 16], compute_capabilities=_capabilities())
    export_to(tmp_path, trained, data, settings, formats=("trt",), engine_batches=[1, 32])
    assert check_engine(tmp_path / "student.engine").batches == (1, 4, 32)


def _capabilities() -> list[str]:
    return ["89"] if hasattr(tensorrt(), "ComputeCapability") else []
