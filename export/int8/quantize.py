"""INT8 by post-training quantisation, in the two forms that the two runtimes want.

In: a float32 ONNX file and calibration images. Out: an ONNX file with QuantizeLinear/DequantizeLinear pairs. `ort` has
unsigned activations and stored 8-bit weights (fast on x86); `trt` is signed and symmetric, with float weights in pairs,
and FP16 wherever it is not INT8 (`placement`).
"""

import copy
import functools
import platform
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from compress.system.errors import UsageError
from compress.system.platform import processor
from export.int8.calibrate import Method, activation_ranges, plain_range
from export.int8.layers import without_pixels
from export.int8.macs import WEIGHTED
from export.int8.placement import Placement, place, plain_inputs, pool_integers, to_int8_and_fp16
from export.int8.prepare import prepare
from export.onnx import get_metadata, largest_values, load, open_session, save, set_metadata
from export.runtimes import batches_to_measure, normalise

Target = Literal["ort", "trt"]

# Relu, Clip and MaxPool let a chain of convolutions stay in 8 bits; an Add costs transformers 20 dB and gains nothing.
ORT_OPS = (*WEIGHTED, "Relu", "Clip", "MaxPool")
# In 8 bits, too, where that makes a chain of SiLU or hard-swish faster: see export.int8.layouts.
ACTIVATION_OPS = ("Sigmoid", "HardSigmoid", "HardSwish", "Mul", "Add", "ReduceMean")
# A MatMul's output in float is faster and more exact (ViT-tiny: 4.9 against 6.5 ms), and logits in 8 bits would tie.
# A Conv fuses only with an 8-bit output.
ORT_OPTIONS = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
TRT_OPS = (*WEIGHTED, "Add")
# TensorRT: symmetric, no quantised bias, weights as float behind a pair, and inputs alone.
TRT_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": list(TRT_OPS),
}


@dataclass(frozen=True)
class Layout:
    """What of a graph is in 8 bits for ONNX Runtime: operators, without some layers."""

    operators: tuple[str, ...]
    excluded: tuple[str, ...] = ()


class Quantizer:
    """One model, calibrated once. `write` then makes as many quantised files of it as are needed.

    Args:
        src: a float32 ONNX file.
        calibration: uint8 images [N, H, W, C] of the training split.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        method: how a range follows from the values that were seen.
        threads: of ONNX Runtime; None takes what this process may use.
        input_ranges: (lowest, highest) input by layer, where training has settled it. Nodes are named LAYER/OPERATOR.

    Raises:
        UsageError: there are no calibration images.
        InputError: ONNX Runtime cannot prepare the file.
    """

    def __init__(
        self,
        src: Path,
        calibration: np.ndarray,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        method: Method = "percentile",
        threads: int | None = None,
        input_ranges: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        if len(calibration) == 0:
            raise UsageError("there are no calibration images", "Set export.calibration_images to 1 or more")
        self.metadata = get_metadata(src)
        self.layout = Layout(ORT_OPS)
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            prepare(src, prepared)
            self.model = load(prepared)
            self.ranges = activation_ranges(
                prepared, calibration, mean, std, method=method, op_types=self._measured_ops, threads=threads
            )

        self._images, self._mean, self._std, self._threads = calibration, mean, std, threads
        for node in self.model.graph.node:
            settled = (input_ranges or {}).get(node.name.rpartition("/")[0])
            if node.op_type in WEIGHTED and settled is not None:
                self.ranges[node.input[0]] = plain_range(*settled)

    def laid_out(self, layout: Layout) -> "Quantizer":
        """The same model with the same ranges in another layout for ONNX Runtime. TensorRT's stays as it is."""
        other = copy.copy(self)
        other.layout = layout
        return other

    @property
    def layers(self) -> list[str]:
        """Names of the layers that can be quantised: nodes with constant weights that see pixels, in graph order."""
        constants = {tensor.name for tensor in self.model.graph.initializer}
        nodes = [node for node in self.model.graph.node if node.name not in self._without_pixels]
        return [n.name for n in nodes if n.op_type in WEIGHTED and n.input[1] in constants]

    @functools.cached_property
    def _without_pixels(self) -> frozenset[str]:
        return without_pixels(self.model)

    @functools.cached_property
    def placement(self) -> Placement:
        """What becomes INT8 for TensorRT."""
        return place(self.model)

    def left_in_float(self, target: Target) -> Collection[str]:
        """The layers that gain nothing from INT8 there, so that it leaves them in float."""
        if target == "trt":
            return self.placement.left
        operators, excluded = self.layout.operators, self.layout.excluded
        return {n.name for n in self.model.graph.node if n.op_type not in operators or n.name in excluded}

    @property
    def _measured_ops(self) -> tuple[str, ...]:
        """The operators whose inputs and outputs get a range: those of both forms, in every layout."""
        smooth = any(node.op_type in ("Sigmoid", "HardSigmoid", "HardSwish") for node in self.model.graph.node)
        residual = ("Add",) if self.placement.residuals else ()
        return tuple(dict.fromkeys((*ORT_OPS, *(ACTIVATION_OPS if smooth else ()), *residual)))

    @functools.cached_property
    def _largest(self) -> dict[str, float]:
        """The largest magnitude of each tensor that was seen, or that training has settled."""
        inputs = (normalise(batch, self._mean, self._std) for batch in batches_to_measure(self._images))
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "float.onnx"
            save(self.model, plain)
            seen = largest_values(plain, inputs, self._threads)
        reach = {name: float(np.abs(self.ranges[name].range_value).max()) for name in self.ranges}
        return {name: max(value, reach.get(name, 0.0)) for name, value in seen.items()}

    def write(self, dst: Path, *, target: Target, exclude: Collection[str] = (), only: Collection[str] = ()) -> None:
        """Writes an INT8 file.

        Args:
            dst: the file.
            target: ONNX Runtime or TensorRT.
            exclude: layers that stay float. For TensorRT these are more (`placement`).
            only: where given, the only layers that do not.

        Raises:
            UsageError: the model has no layer of that name.
        """
        unknown = sorted({*exclude, *only} - {node.name for node in self.model.graph.node})
        if unknown:
            raise UsageError(f"the model has no layer {unknown[0]!r}", f"It has {', '.join(self.layers[:4])}, ...")
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        ort = target == "ort"
        exclude = {*exclude, *self._without_pixels}
        exclude = {*exclude, *self.layout.excluded} if ort else self._float_nodes(exclude, only)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=ort and not has_vnni(),
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8 if ort else QuantType.QInt8,
            tensors_range=copy.deepcopy(self.ranges),  # it narrows those before a Relu or Clip that it quantises
            nodes_to_quantize=sorted(only) if ort else [],
            nodes_to_exclude=sorted(exclude),
            op_types_to_quantize=list(self.layout.operators if ort else TRT_OPS),
            extra_options=dict(ORT_OPTIONS if ort else TRT_OPTIONS),
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
        quantised = quantizer.model.model
        if ort:
            _keep_float(quantised, exclude)
        else:
            plain_inputs(quantised.graph, self.placement.residuals, exclude)
            pool_integers(quantised.graph)
        _drop_unused_domains(quantised)
        set_metadata(quantised, self.metadata)
        if ort:
            save(quantised, dst)
        else:
            to_int8_and_fp16(quantised, dst, self._largest)

    def _float_nodes(self, exclude: Collection[str], only: Collection[str]) -> set[str]:
        """For TensorRT: the layers that stay float, and the additions that do. A convolution in INT8 adds in INT8."""
        left, residuals = self.placement.left, self.placement.residuals
        layers = {node.name for node in self.model.graph.node if node.op_type in WEIGHTED}
        kept = {name for name in layers if name in exclude or name in left or (only and name not in only)}
        adds = {node.name for node in self.model.graph.node if node.op_type == "Add"}
        return kept | {name for name in adds if name not in residuals or residuals[name].convolution in kept}


def _keep_float(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Puts an identity that ONNX Runtime does not see through behind layers that must stay float.

    Between a DequantizeLinear and a QuantizeLinear, ONNX Runtime's WeightBiasQuantization would quantise their weights
    after all. It takes a single scale for the whole tensor, which is worse than what the layer was excluded from. A
    LeakyRelu of slope 1 is fused into the convolution, so it costs nothing.
    """
    graph = model.graph
    for index, node in reversed(list(enumerate(graph.node))):
        if node.name in layers and node.op_type in ("Conv", "Gemm"):
            output = node.output[0]
            node.output[0] = f"{output}_float"
            identity = onnx.helper.make_node(
                "LeakyRelu", [node.output[0]], [output], name=f"{node.name}/keep_float", alpha=1.0
            )
            graph.node.insert(index + 1, identity)


def _drop_unused_domains(model: onnx.ModelProto) -> None:
    """ONNX Runtime's preparation declares its own domains, which other readers need not know."""
    used = {node.domain for node in model.graph.node}
    kept = [opset for opset in model.opset_import if opset.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def has_vnni() -> bool:
    """Whether this CPU multiplies 8-bit numbers without saturating; without it, x86 weights get 7 bits."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    _, flags = processor()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def fusion_coverage(path: Path) -> tuple[int, int]:
    """How many convolutions ONNX Runtime runs in INT8 and in float, counted in its optimised graph."""
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        open_session(path, optimized_path=optimised)
        kinds = Counter(node.op_type for node in load(optimised).graph.node)
    int8 = sum(count for kind, count in kinds.items() if kind in ("QLinearConv", "ConvInteger"))
    return int8, sum(count for kind, count in kinds.items() if kind.endswith("Conv")) - kinds["QLinearConv"]
