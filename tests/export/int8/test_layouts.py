"""The layouts of INT8 for ONNX Runtime: what each has in 8 bits, and which one is taken."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compress.system.errors import GateError
from export.int8 import WEIGHTED, Quantizer, layer_macs
from export.int8 import layouts as module
from export.int8.layouts import WHOLE, layouts, ranked_layouts
from export.int8.macs import int8_mac_fraction
from export.int8.sensitivity import quantize_until
from export.onnx import export_onnx
from export.runtimes import OrtRuntime
from tests.helpers.classifiers import MEAN, STD, Digits, float_logits, signal_to_noise_db

DEPTHWISE, SQUEEZED = "depthwise/Conv", {"reduce/Conv", "expand/Conv"}


class Block(nn.Module):
    """An inverted bottleneck with squeeze-and-excite and SiLU, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 64, 3, 1, 1)
        self.hidden, self.classifier = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        silu = nn.functional.silu
        x = silu(self.depthwise(silu(self.stem(x))))
        gate = self.expand(silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return self.classifier(self.hidden(silu(self.project(x * gate.sigmoid())).mean((2, 3))))


@pytest.fixture(scope="module")
def block() -> nn.Module:
    """With weights that keep the spread of the images up to the logits."""
    torch.manual_seed(0)
    model = Block().eval()
    for parameter in model.parameters():
        nn.init.kaiming_normal_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    return model


@pytest.fixture(scope="module")
def source(block: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("block") / "student.onnx"
    export_onnx(block, path, image_size=16, metadata={})
    return path


@pytest.fixture(scope="module")
def quantizer(source: Path, data: Digits) -> Quantizer:
    return Quantizer(source, data.train_images[:64], MEAN, STD, method="minmax", threads=1)


def int8_layers(path: Path) -> set[str]:
    return {name for name, (_, int8) in layer_macs(path, WEIGHTED).items() if int8}


def test_a_layout_is_only_tried_where_there_is_something_to_leave_out(
    quantizer: Quantizer, trained_onnx: Path, data: Digits
) -> None:
    every = [WHOLE, "convolutions alone", "without squeeze-and-excite", "without depthwise", "with activations"]
    assert list(layouts(quantizer.model)) == [*every, "with activations, without depthwise"]
    plain = Quantizer(trained_onnx, data.train_images[:8], MEAN, STD, method="minmax", threads=1)
    assert list(layouts(plain.model)) == [WHOLE]


def test_each_layout_has_in_8_bits_what_its_name_says(quantizer: Quantizer, tmp_path: Path) -> None:
    written = {}
    for number, (name, layout) in enumerate(layouts(quantizer.model).items()):
        written[name] = tmp_path / f"{number}.onnx"
        quantizer.laid_out(layout).write(written[name], target="ort")
    everything = set(quantizer.layers)
    assert {DEPTHWISE, *SQUEEZED} < everything
    assert int8_layers(written[WHOLE]) == everything
    assert int8_layers(written["convolutions alone"]) == {name for name in everything if name.endswith("Conv")}
    assert int8_layers(written["without squeeze-and-excite"]) == everything - SQUEEZED
    assert int8_layers(written["without depthwise"]) == everything - {DEPTHWISE}
    graph = onnx.load(written["with activations"]).graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    smooth = [node for node in graph.node if node.op_type == "Sigmoid"]
    assert smooth
    assert {producers[name] for node in smooth for name in node.input} == {"DequantizeLinear"}


def test_no_budget_is_spent_on_layers_that_a_layout_has_in_float(quantizer: Quantizer, tmp_path: Path) -> None:
    """The most harmed layer is depthwise, and in float anyway: the next one is returned in its place."""
    laid_out, path = quantizer.laid_out(layouts(quantizer.model)["without depthwise"]), tmp_path / "int8.onnx"
    assert laid_out.left_in_float("ort") >= {DEPTHWISE}
    macs = {name: count for name, (count, _) in layer_macs(source_of(laid_out, path), WEIGHTED).items()}

    def gate(made: Path) -> None:
        if "stem/Conv" in int8_layers(made):
            raise GateError("it loses too much")

    laid_out.write(path, target="ort")
    share = int8_mac_fraction(path)
    convs = sum(count for name, count in macs.items() if name.endswith("Conv"))
    least = share - (macs["stem/Conv"] + macs[DEPTHWISE] / 2) / convs
    floats = quantize_until(
        laid_out,
        path,
        gate,
        target="ort",
        sensitivity=lambda: {DEPTHWISE: 1.0, "stem/Conv": 0.5, "project/Conv": 0.1},
        min_int8_macs=least,
    )
    assert floats == ["stem/Conv"]


def source_of(quantizer: Quantizer, path: Path) -> Path:
    """Its float model as a file."""
    onnx.save(quantizer.model, path)
    return path


def test_every_layout_still_answers_as_the_model(
    quantizer: Quantizer, block: nn.Module, data: Digits, tmp_path: Path
) -> None:
    expected = float_logits(block, data.eval_images)
    for name, layout in layouts(quantizer.model).items():
        quantizer.laid_out(layout).write(tmp_path / "int8.onnx", target="ort")
        found = OrtRuntime(tmp_path / "int8.onnx", MEAN, STD, threads=1)(data.eval_images)
        assert signal_to_noise_db(expected, found) > 15, name


def test_the_graph_for_tensorrt_does_not_depend_on_it(quantizer: Quantizer, tmp_path: Path) -> None:
    quantizer.write(tmp_path / "whole.onnx", target="trt")
    for layout in layouts(quantizer.model).values():
        quantizer.laid_out(layout).write(tmp_path / "other.onnx", target="trt")
        assert (tmp_path / "other.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


@pytest.mark.parametrize(
    ("times", "first"),
    [
        ({"without depthwise": 0.90, "with activations": 0.80}, ["with activations", "without depthwise", WHOLE]),
        ({"without depthwise": 0.96}, [WHOLE, "without depthwise"]),  # noise may do that
        ({"without depthwise": 1.2, "with activations": 1.1}, [WHOLE]),
    ],
)
def test_the_fastest_comes_first_if_it_is_faster_by_more_than_noise(
    times: Mapping[str, float], first: list[str], quantizer: Quantizer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_medians", lambda files, *_: {name: times.get(name, 1.0) for name in files})
    ranked = ranked_layouts(quantizer, source, minutes=1, min_int8_macs=0.5, threads=1)
    assert list(ranked)[: len(first)] == first
    assert ranked == layouts(quantizer.model)
    slow = sorted((name for name in ranked if times.get(name, 1.0) > 1), key=lambda name: times[name])
    assert list(ranked)[len(ranked) - len(slow) :] == slow


def test_what_does_not_open_is_not_there(quantizer: Quantizer, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_medians", lambda files, *_: dict.fromkeys(files, np.inf) | {"with activations": 1.0})
    assert list(ranked_layouts(quantizer, source, minutes=1, min_int8_macs=0.5, threads=1)) == ["with activations"]
    monkeypatch.setattr(module, "_medians", lambda files, *_: dict.fromkeys(files, np.inf))
    assert list(ranked_layouts(quantizer, source, minutes=1, min_int8_macs=0.5, threads=1)) == [WHOLE]


def test_one_that_leaves_too_little_in_8_bits_is_not_tried(
    quantizer: Quantizer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(module, "_medians", lambda files, *_: seen.extend(files) or dict.fromkeys(files, 1.0))
    ranked_layouts(quantizer, source, minutes=1, min_int8_macs=0.999, threads=1)
    assert "without depthwise" not in seen
    assert {"FP32", WHOLE, "convolutions alone", "with activations"} <= set(seen)


def test_without_minutes_it_is_the_whole_graph(quantizer: Quantizer, source: Path) -> None:
    assert list(ranked_layouts(quantizer, source, minutes=0, min_int8_macs=0.9, threads=1)) == [WHOLE]


def test_real_sessions_are_timed(quantizer: Quantizer, source: Path, tmp_path: Path) -> None:
    quantizer.write(tmp_path / "int8.onnx", target="ort")
    (tmp_path / "broken.onnx").write_bytes(b"none")
    files = {"FP32": source, WHOLE: tmp_path / "int8.onnx", "broken": tmp_path / "broken.onnx"}
    times = module._medians(files, 1, until=np.inf)
    assert 0 < times["FP32"] < 1000
    assert 0 < times[WHOLE] < 1000
    assert times["broken"] == np.inf
