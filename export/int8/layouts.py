"""Which layers ONNX Runtime is to run in 8 bits: a few layouts, in the order of their speed on this machine.

In: a calibrated Quantizer. Out: Layouts. INT8 does not pay for every layer: what stands between two float layers is
quantised and dequantised again, and that costs more than a small layer saves.
"""

import logging
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from compress.system.errors import InputError
from export.int8.macs import counted_ops, int8_mac_fraction
from export.int8.quantize import ACTIVATION_OPS, ORT_OPS, Layout, Quantizer
from export.onnx import INPUT_NAME, OUTPUT_NAME, open_session

logger = logging.getLogger(__name__)

WHOLE = "whole graph"
_LEAST_GAIN = 0.05  # of the whole graph's time: below it, noise would choose
_ROUNDS, _WARM_UP = 60, 5


def layouts(model: onnx.ModelProto) -> dict[str, Layout]:
    """The layouts in which a prepared model may be quantised, by name, without those that equal the whole graph."""
    nodes = [node for node in model.graph.node if node.op_type in ORT_OPS]
    depthwise = tuple(node.name for node in nodes if _groups(node) > 1)
    pointlike = tuple(node.name for node in nodes if node.op_type == "Conv" and node.name in _on_means(model))
    convs = tuple(operator for operator in ORT_OPS if operator not in ("Gemm", "MatMul"))
    found = {WHOLE: Layout(ORT_OPS)}
    if sum(node.op_type in ("Gemm", "MatMul") for node in nodes) > 1:  # a classifier alone takes no time
        found["convolutions alone"] = Layout(convs)
    if pointlike:
        found["without squeeze-and-excite"] = Layout(ORT_OPS, pointlike)
    if depthwise:
        found["without depthwise"] = Layout(ORT_OPS, depthwise)
    if any(node.op_type in ("Sigmoid", "HardSwish", "HardSigmoid") for node in model.graph.node):
        found["with activations"] = Layout((*ORT_OPS, *ACTIVATION_OPS))
        if depthwise:
            found["with activations, without depthwise"] = Layout((*ORT_OPS, *ACTIVATION_OPS), depthwise)
    return found


def ranked_layouts(
    quantizer: Quantizer, source: Path, *, minutes: float, min_int8_macs: float, threads: int | None
) -> dict[str, Layout]:
    """The layouts by name, that of least median time at batch 1 first, of runs in turns.

    To go before the whole graph another must be 5 % faster than it. One that leaves too little in 8 bits is not there.

    Args:
        quantizer: calibrated already.
        source: the FP32 file.
        minutes: after which no further layout is tried. 0 takes the whole graph.
        min_int8_macs: the share of the multiply-adds that must be INT8.
        threads: of ONNX Runtime; None takes what this process may use.
    """
    found = layouts(quantizer.model)
    if minutes <= 0 or len(found) == 1:
        return {WHOLE: found[WHOLE]}
    until = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        files = {"FP32": source}
        for number, (name, layout) in enumerate(found.items()):
            if name != WHOLE and time.monotonic() > until:
                logger.warning(f"export.int8_minutes is over: the layout {name!r} and those after it are not tried")
                break
            path = Path(folder) / f"{number}.onnx"
            quantizer.laid_out(layout).write(path, target="ort")
            if name == WHOLE or int8_mac_fraction(path, counted_ops(path)) >= min_int8_macs:
                files[name] = path
        times = _medians(files, threads, until)
    opened = sorted((name for name in files if name != "FP32" and times[name] < float("inf")), key=lambda n: times[n])
    ahead = [name for name in opened if name != WHOLE and times[name] < (1 - _LEAST_GAIN) * times[WHOLE]]
    order = [*ahead, *([WHOLE] if WHOLE in opened or not opened else [])]
    order += [name for name in opened if name not in order]
    shown = ", ".join(f"{name} {milliseconds:.3g}" for name, milliseconds in times.items())
    logger.info(f"INT8 in ONNX Runtime at batch 1, ms: {shown}; fastest: {order[0]}")
    return {name: found[name] for name in order}


def _medians(files: Mapping[str, Path], threads: int | None, until: float) -> dict[str, float]:
    """Milliseconds of each file that opens, of runs in turns until the time is over, and of a few at least."""
    sessions = {name: session for name, path in files.items() if (session := _opened(path, threads)) is not None}
    shape = next(iter(sessions.values())).get_inputs()[0].shape[1:]
    image = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    spent: dict[str, list[int]] = {name: [] for name in sessions}
    for number in range(_ROUNDS + _WARM_UP):
        if number > 2 * _WARM_UP and time.monotonic() > until:
            break
        for name, session in sessions.items():
            began = time.perf_counter_ns()
            session.run([OUTPUT_NAME], {INPUT_NAME: image})
            spent[name].append(time.perf_counter_ns() - began)
    medians = {name: statistics.median(values[_WARM_UP:]) / 1e6 for name, values in spent.items()}
    return {name: medians.get(name, float("inf")) for name in files}


def _opened(path: Path, threads: int | None) -> ort.InferenceSession | None:
    """None where ONNX Runtime lacks an 8-bit form of an operator."""
    try:
        return open_session(path, threads, stop_spinning=True)
    except InputError:
        return None


def _groups(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


def _on_means(model: onnx.ModelProto) -> set[str]:
    """The convolutions on one value for each channel, as in squeeze-and-excite: behind a mean over the picture."""
    shapes = {
        info.name: [size.dim_value for size in info.type.tensor_type.shape.dim]
        for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }

    def is_point(names: Sequence[str]) -> bool:
        return all(shapes.get(name, [])[2:] == [1, 1] for name in names)

    return {
        node.name for node in model.graph.node if node.op_type == "Conv" and is_point([node.input[0], node.output[0]])
    }
