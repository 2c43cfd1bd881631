"""Models that are exported and timed, with a handful of runs: what is asserted is never a time."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from compress.system import files
from compress.system.errors import InputError, MachineError, UsageError
from export.benchmark.latency import Series
from export.openvino import Session, installed, openvino, own_execution
from export.pick import check_plot_file, pick_students, write_plot
from export.pick import graphs as graph_making
from export.pick import measure as measuring
from export.pick.graphs import Graphs, make_graphs
from export.pick.records import Effort
from export.pick.run import Pick

SIZE = 64
FEW = (Effort(0.0, 2, 2), Effort(0.0, 2, 2))
NAMES = ("test_resnet", "test_vit")
with_openvino = pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")


def pick(p90_ms: float = 1e6, **given: Any) -> Pick:
    return pick_students(SIZE, p90_ms, **{"models": NAMES, "threads": 1, "efforts": FEW, **given})


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """A machine without other work, however many tests run on it: what is timed then is kept."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Series, "contended", property(lambda series: False))
        yield


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Graphs:
    return make_graphs("test_resnet", tmp_path_factory.mktemp("graphs"), image_size=SIZE, threads=1)


@pytest.fixture(scope="module")
def picked() -> Pick:
    """In ONNX Runtime alone. What it measured is in the cache of the session."""
    return pick(runtimes=["onnxruntime"])


def test_multiply_adds_are_those_that_torch_counts(graphs: Graphs) -> None:
    with torch.device("meta"):
        model, images = timm.create_model("test_resnet").eval(), torch.empty(1, 3, SIZE, SIZE)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert graphs.macs_m == pytest.approx(counter.get_total_flops() / 2 / 1e6, rel=0.01)


def test_the_files_run_and_have_the_convolutions_that_onnx_runtime_makes_of_them(
    graphs: Graphs, tmp_path: Path
) -> None:
    images = np.zeros((3, 3, SIZE, SIZE), np.float32)
    for path in (graphs.fp32, *graphs.int8.values()):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert session.run(None, {"input": images})[0].shape == (3, 1000)  # type: ignore[attr-defined]
    model = timm.create_model("test_resnet")
    convs = sum(isinstance(module, torch.nn.Conv2d) for module in model.modules())
    assert graphs.int8_convs + graphs.float_convs == convs
    assert graphs.int8["ort"].stat().st_size < 0.5 * graphs.fp32.stat().st_size


def test_no_branch_is_left_at_zero(graphs: Graphs) -> None:
    import onnx

    for tensor in onnx.load(graphs.fp32).graph.initializer:
        if tensor.name.endswith(".weight"):
            assert onnx.numpy_helper.to_array(tensor).any(), tensor.name


def test_every_model_has_a_row_with_its_times_in_each_precision(picked: Pick) -> None:
    assert {row.model for row in picked.models} == set(NAMES)
    for row in picked.models:
        assert [(one.runtime, one.precision) for one in row.timings] == [
            ("onnxruntime", "fp32"),
            ("onnxruntime", "int8"),
        ]
        assert row.p90_ms == min(one.p90_ms for one in row.timings)
        assert all(one.runs >= 2 and 0 < one.p90_low <= one.p90_ms <= one.p90_high for one in row.timings)
    assert picked.runtimes == ["onnxruntime"]
    assert picked.machine["versions"]["onnxruntime"] == onnxruntime.__version__


def test_another_budget_needs_no_new_measurement(picked: Pick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "make_graphs", lambda *args, **kwargs: pytest.fail("it was exported again"))
    again = pick(1e-6, runtimes=["onnxruntime"])
    assert (again.recommended, picked.recommended is None) == (None, False)
    assert {row.model: row.timings for row in again.models} == {row.model: row.timings for row in picked.models}


@pytest.mark.parametrize("given", [{"threads": 2}, {"batch": 2}], ids=str)
def test_other_threads_or_batches_are_measured_for_themselves(picked: Pick, given: dict[str, int]) -> None:
    before = set((files.cache_folder() / "pick").iterdir())
    other = pick(runtimes=["onnxruntime"], models=NAMES[:1], **given)
    assert (other.threads, other.batch) == (given.get("threads", 1), given.get("batch", 1))
    assert len(set((files.cache_folder() / "pick").iterdir()) - before) == 1


def test_what_was_timed_while_other_work_held_the_cpus_is_timed_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Series, "contended", property(lambda series: True))
    busy = pick(runtimes=["onnxruntime"], models=NAMES[:1]).models[0].timings
    assert all(timing.contended for timing in busy)
    monkeypatch.setattr(Series, "contended", property(lambda series: False))
    quiet = pick(runtimes=["onnxruntime"], models=NAMES[:1]).models[0].timings
    assert [(one.precision, one.contended) for one in quiet] == [(one.precision, False) for one in busy]
    assert pick(runtimes=["onnxruntime"], models=NAMES[:1]).models[0].timings == quiet


def test_a_cache_that_is_damaged_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    first = pick(runtimes=["onnxruntime"], models=NAMES[:1])
    (file,) = (tmp_path / "cache" / "pick").iterdir()
    file.write_text(file.read_text()[:-20])
    again = pick(runtimes=["onnxruntime"], models=NAMES[:1])
    assert [row.model for row in again.models] == [row.model for row in first.models]


@with_openvino
def test_a_runtime_that_comes_later_is_added(picked: Pick) -> None:
    both = pick(models=NAMES[:1])
    (row,) = both.models
    (before,) = [one for one in picked.models if one.model == row.model]
    assert row.timings[:2] == before.timings
    kinds = {(one.precision, one.graph) for one in row.timings[2:]}
    expected = {("fp32", None), ("int8", "ort"), ("int8", "trt")}
    assert kinds == expected | ({("bf16", None)} if own_execution() == "bf16" else set())


@with_openvino
def test_openvino_answers_as_onnx_runtime_does(graphs: Graphs) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, SIZE, SIZE), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(graphs.fp32), providers=["CPUExecutionProvider"])
    expected = np.asarray(session.run(None, {"input": images})[0])
    given = Session(graphs.fp32, 1).run(images)
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_a_model_that_cannot_be_exported_is_left_out_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))

    def refuse(name: str, *args: Any, **kwargs: Any) -> Graphs:
        if name == "test_vit":
            raise InputError("it has odd layers")
        return make_graphs(name, *args, **kwargs)

    monkeypatch.setattr(measuring, "make_graphs", refuse)
    found = pick(runtimes=["onnxruntime"])
    assert [row.model for row in found.models] == ["test_resnet"]
    assert found.left_out == {"test_vit": "it has odd layers"}
    assert "test_vit is left out: it has odd layers" in caplog.text
    with pytest.raises(InputError, match="no model could be timed: it has odd layers"):
        pick(runtimes=["onnxruntime"], models=["test_vit"])


def test_a_full_disk_ends_the_command_and_is_not_held_against_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # smaller than the file
    try:
        with pytest.raises(MachineError, match=r"test_resnet could not be exported.*--model") as caught:
            pick(runtimes=["onnxruntime"], models=NAMES[:1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == 4
    assert [row.model for row in pick(runtimes=["onnxruntime"], models=NAMES[:1]).models] == ["test_resnet"]


class Hungry(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise MemoryError


def test_too_little_memory_is_not_a_fault_of_the_model_though_torch_says_that_it_cannot_be_exported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(graph_making, "make_timm_model", lambda *args, **kwargs: Hungry())
    with pytest.raises(MachineError, match="could not be exported"):
        make_graphs("test_resnet", tmp_path, image_size=SIZE, threads=1)


def test_a_runtime_without_memory_is_not_taken_for_one_that_refuses_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measuring, "_opened", lambda *args: lambda number: np.empty(1 << 55))
    with pytest.raises(MachineError, match="test_resnet in fp32 could not be run in onnxruntime"):
        pick(runtimes=["onnxruntime"], models=NAMES[:1])
    monkeypatch.undo()
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    assert pick(runtimes=["onnxruntime"], models=NAMES[:1]).left_out == {}


@pytest.mark.parametrize(
    "refused",
    [pytest.param({"int8"}, id="one file", marks=pytest.mark.faults), pytest.param({"fp32", "int8"}, id="all files")],
)
def test_a_file_that_a_runtime_does_not_run_leaves_the_others(
    refused: set[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    opened = measuring._opened

    def fail_late(candidate: Any, *rest: Any) -> Any:
        if candidate.model == "test_vit" and candidate.precision in refused:
            return lambda number: 1 / 0
        return opened(candidate, *rest)

    monkeypatch.setattr(measuring, "_opened", fail_late)
    found = pick(runtimes=["onnxruntime"])
    assert "test_vit in int8 is left out for onnxruntime: division by zero" in caplog.text
    assert found.left_out == ({"test_vit": "onnxruntime runs none of its files"} if len(refused) == 2 else {})
    timed = {row.model: {one.precision for one in row.timings} for row in found.models}
    assert timed["test_resnet"] == {"fp32", "int8"}
    assert timed.get("test_vit", set()) == {"fp32", "int8"} - refused
    monkeypatch.setattr(measuring, "make_graphs", lambda *args, **kwargs: pytest.fail("it was exported again"))
    assert pick(runtimes=["onnxruntime"]).left_out == found.left_out, "it is known now"
    monkeypatch.undo()
    if installed() and len(refused) == 2:
        monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
        (row,) = pick(runtimes=["openvino"], models=["test_vit"]).models
        assert row.runtime == "openvino", "another runtime is tried"


def test_an_image_size_that_a_model_does_not_take_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot"):
        make_graphs("vit_tiny_patch16_224", tmp_path, image_size=8, threads=1)


def test_openvino_that_is_asked_for_and_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    openvino.cache_clear()
    with pytest.raises(MachineError, match=r"OpenVINO is not installed. .*\[openvino\]"):
        pick(runtimes=["openvino"])


def test_a_model_that_timm_does_not_know_is_refused(picked: Pick) -> None:
    with pytest.raises(UsageError, match="Did you mean"):
        pick(models=["mobilenetv4_conv_smal"])


@pytest.mark.parametrize("ending", [".png", ".svg"])
def test_the_plot_is_a_picture_that_names_what_nothing_dominates(picked: Pick, tmp_path: Path, ending: str) -> None:
    rows = [row.model_copy(update={"top1": 70.0 + number}) for number, row in enumerate(picked.models)]
    path = tmp_path / f"pick{ending}"
    write_plot(picked.model_copy(update={"models": rows}), path)
    if ending == ".png":
        assert min(Image.open(path).size) > 300
    else:
        text = path.read_text()
        assert text.lstrip().startswith("<?xml")


def test_a_plot_of_another_kind_is_refused_before_anything_is_timed() -> None:
    with pytest.raises(UsageError, match=r"must end in \.png"):
        check_plot_file(Path("pick.txt"))
