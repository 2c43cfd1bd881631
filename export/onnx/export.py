"""A torch classifier becomes ONNX: dynamic batch, weights inside the file, BatchNorm folded, the same bytes every time.

In: a torch module. Out: `input` float32 [batch, C, S, S] -> `logits` float32 [batch, classes]; or, with preprocessing,
`pixels` uint8 [batch, height, width, 3] -> `probabilities` float32 [batch, classes].
"""

import copy
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx
import torch
from onnx import TensorProto, compose, helper
from timm.utils.model import reparameterize_model
from torch import nn

from compress.data.decode import Square
from compress.system.errors import GateError, InputError, first_line
from export.onnx.file import INPUT_NAME, OUTPUT_NAME, PROBABILITIES_NAME, load, save, set_metadata
from export.onnx.preprocessing import FRONT_OUTPUT, preprocessing_graph, preprocessing_metadata

# LayerNormalization exists from opset 17 and Gelu from 20; without them both become chains of small operators.
OPSET_CONV, OPSET_TRANSFORMER = 18, 20
MOST_BYTES = 2**31 - 1


class _GlobalMean(nn.Module):
    """AdaptiveAvgPool2d(1) without ATen's `as_strided` for channels-last input, in ONNX a Range and a Gather."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3), keepdim=True)


def export_onnx(model: nn.Module, path: Path, *, image_size: int, channels: int = 3, metadata: dict[str, str]) -> None:
    """Write a model as float32 ONNX.

    The module is left alone: a CPU copy in eval mode is exported, multi-branch blocks (RepViT, MobileOne) merged.

    Args:
        model: takes float32 [N, channels, image_size, image_size] and gives logits [N, classes].
        path: the file to write.
        image_size: side of the images in pixels.
        channels: of the images.
        metadata: goes into the file's metadata_props.

    Raises:
        InputError: torch cannot export the model, or its weights do not fit into one file.
        GateError: a BatchNorm behind a convolution is left.
    """
    _check_size(model)
    model = deployable(model)
    example = torch.zeros(2, channels, image_size, image_size)
    try:
        try:
            program = _traced(model, example)
        except torch.onnx.OnnxExporterError:
            if not _plain_attention(model):
                raise
            program = _traced(model, example)
    except torch.onnx.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"torch cannot export {type(model).__name__} to ONNX: {reason}",
            "The model must take one batch of images whose size does not matter to its control flow",
        ) from error
    assert program is not None
    proto = program.model_proto
    strip_traces(proto)
    leftover = _unfolded_norms(proto.graph)
    if leftover:
        raise GateError(
            f"{len(leftover)} BatchNormalization nodes follow a convolution, 0 allowed: {', '.join(leftover[:3])}",
            "Their statistics could not be folded into the convolution",
        )
    set_metadata(proto, metadata)
    save(proto, path)


def _check_size(model: nn.Module) -> None:
    """A protobuf message, which an ONNX file is, holds 2 GiB."""
    weights = {id(tensor): tensor.numel() for tensor in (*model.parameters(), *model.buffers())}
    size = 4 * sum(weights.values())
    if size >= MOST_BYTES:
        raise InputError(
            f"the weights of {type(model).__name__} are {size / 1e9:.1f} GB in FP32, and an ONNX file holds "
            f"{MOST_BYTES / 1e9:.1f} GB",
            "Choose a smaller model",
        )


def _traced(model: nn.Module, example: torch.Tensor) -> torch.onnx.ONNXProgram | None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset_for(model),
            verbose=False,
        )


def _plain_attention(model: nn.Module) -> bool:
    """Makes timm's modules write their attention out; whether one did not. torch exports its fused one of 4 axes alone.

    It is the second choice: ONNX Runtime 1.32 takes FastViT's plain attention for MobileCLIP's, and opens no FP16 file.
    """
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False)]
    for module in fused:
        module.fused_attn = False  # type: ignore[assignment]
    return bool(fused)


def deployable(model: nn.Module) -> nn.Module:
    """A float32 CPU copy in eval mode, branches merged, memory plain, ready to be exported."""
    copied = copy.deepcopy(model).cpu().float().eval().to(memory_format=torch.contiguous_format)
    copied = reparameterize_model(copied, inplace=True)
    for parent in copied.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _GlobalMean())
    return copied.requires_grad_(False)


def opset_for(model: nn.Module) -> int:
    """20 where GELU or LayerNorm is in the model (transformers, ConvNeXt), otherwise 18, which older runtimes read."""
    new = any(isinstance(module, nn.LayerNorm | nn.GELU) for module in model.modules())
    return OPSET_TRANSFORMER if new else OPSET_CONV


def strip_traces(proto: onnx.ModelProto) -> None:
    """Name the nodes after the torch modules they come from, then drop the exporter's traces.

    The traces hold stack frames with file paths of the machine. Module names are what errors and reports show.
    """
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(".weight")}
    taken: set[str] = set()
    for node in graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get("pkg.torch.onnx.name_scopes")
        module = json.loads(scopes.replace("'", '"'))[-2] if scopes else ""
        if len(node.input) > 1 and node.input[1] in weights:
            # A convolution with a folded BatchNorm carries the BatchNorm's scope; its weight tells the truth.
            module = node.input[1].removesuffix(".weight")
        base = f"{module}/{node.op_type}" if module else node.op_type
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        taken.add(name)
        node.name = name
        del node.metadata_props[:]
        node.doc_string = ""
    _clear(graph.input, graph.output, graph.value_info, graph.initializer, [graph])


def _clear(*groups: Iterable) -> None:
    for group in groups:
        for item in group:
            del item.metadata_props[:]
            item.doc_string = ""


def _unfolded_norms(graph: onnx.GraphProto) -> list[str]:
    """The BatchNorms that a convolution before them should have taken up.

    A pre-activation one stays, rightly, and so does one whose convolution also feeds a shortcut (MaxViT, CoAtNet).
    """
    uses = Counter(name for node in graph.node for name in node.input)
    convs = {node.output[0] for node in graph.node if node.op_type == "Conv"}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    return [norm.name for norm in norms if norm.input[0] in convs and uses[norm.input[0]] == 1]


def add_preprocessing(
    onnx_path: Path, out_path: Path, square: Square, *, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Wrap a model so that a deployer needs no preprocessing: `pixels` uint8 NHWC RGB in, `probabilities` out.

    Pictures of any height and width go in; those of one batch have one size.

    Args:
        onnx_path: the file that takes normalised float32 images.
        out_path: the file to write.
        square: how a picture becomes what the model takes.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.

    Raises:
        InputError: `onnx_path` is missing or damaged.
    """
    model = load(onnx_path)
    back = helper.make_graph(
        [helper.make_node("Softmax", ["back_logits"], [PROBABILITIES_NAME], name="postprocess/Softmax", axis=-1)],
        "postprocess",
        [helper.make_tensor_value_info("back_logits", TensorProto.FLOAT, ["batch", None])],
        [_like(model.graph.output[0], PROBABILITIES_NAME)],
    )
    opsets, ir_version = list(model.opset_import), model.ir_version
    front = preprocessing_graph(square, mean, std)
    merged = compose.merge_models(
        helper.make_model(front, opset_imports=opsets, ir_version=ir_version), model, [(FRONT_OUTPUT, INPUT_NAME)]
    )
    merged = compose.merge_models(
        merged,
        helper.make_model(back, opset_imports=opsets, ir_version=ir_version),
        [(OUTPUT_NAME, "back_logits")],
    )
    merged.producer_name, merged.producer_version = model.producer_name, model.producer_version
    merged.graph.name = model.graph.name
    set_metadata(merged, {prop.key: prop.value for prop in model.metadata_props})
    save(merged, out_path)


def export_preprocessing(path: Path, square: Square, *, mean: Sequence[float], std: Sequence[float]) -> None:
    """Write the preprocessing alone: `pixels` uint8 [batch, height, width, 3] -> `input` float32 [batch, 3, S, S].

    The arguments are those of `add_preprocessing`.
    """
    graph = preprocessing_graph(square, mean, std, output=INPUT_NAME)
    opsets = [helper.make_opsetid("", OPSET_CONV)]
    ir_version = helper.find_min_ir_version_for(opsets)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    set_metadata(model, preprocessing_metadata(square, mean, std))
    save(model, path)


def _like(info: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(info)
    renamed.name = name
    return renamed
