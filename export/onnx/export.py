"""A torch classifier becomes ONNX: dynamic batch, weights inside the file, BatchNorm folded, the same bytes every time.

In: a torch module. Out: `input` float32 [batch, C, S, S] -> `logits` float32 [batch, classes]; or, with preprocessing,
`pixels` uint8 [batch, H, W, 3] -> `probabilities` float32 [batch, classes].
"""

import copy
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, numpy_helper
from timm.utils.model import reparameterize_model
from torch import nn

from compress.system.errors import GateError, InputError, first_line
from export.onnx.file import INPUT_NAME, OUTPUT_NAME, load, save, set_metadata

# LayerNormalization exists from opset 17 and Gelu from 20; without them both become chains of small operators.
OPSET_CONV, OPSET_TRANSFORMER = 18, 20


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
        InputError: torch cannot export the model.
        GateError: a BatchNorm behind a convolution is left.
    """
    model = deployable(model)
    example = torch.zeros(2, channels, image_size, image_size)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset_for(model),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = first_line(error.__cause__ or error)
        raise InputError(
            f"torch cannot export {type(model).__name__} to ONNX: {reason}",
            "The model must take one batch of images whose size does not matter to its control flow",
        ) from error
    assert program is not None
    proto = program.model_proto
    strip_traces(proto)
    leftover = [
        node.name for node in proto.graph.node if node.op_type == "BatchNormalization" and _after_conv(proto, node)
    ]
    if leftover:
        raise GateError(
            f"{len(leftover)} BatchNormalization nodes follow a convolution, 0 allowed: {', '.join(leftover[:3])}",
            "Their statistics could not be folded into the convolution",
        )
    set_metadata(proto, metadata)
    save(proto, path)


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


def _after_conv(proto: onnx.ModelProto, norm: onnx.NodeProto) -> bool:
    """Only a BatchNorm whose input is a convolution can be folded; a pre-activation one stays, rightly."""
    return any(norm.input[0] in node.output and node.op_type == "Conv" for node in proto.graph.node)


def add_preprocessing(
    onnx_path: Path,
    out_path: Path,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    image_size: int,
    source_size: int | None = None,
) -> None:
    """Wrap a model so that a deployer needs no preprocessing: `pixels` uint8 NHWC RGB in, `probabilities` out.

    Args:
        onnx_path: the file that takes normalised float32 images.
        out_path: the file to write.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        image_size: side of the images that the model takes, in pixels.
        source_size: side of the square images that come in, where it is not `image_size`. They are then resized by
            antialiased bicubic interpolation, as torchvision does. Pillow differs only in what it rounds between its
            two passes.

    Raises:
        InputError: `onnx_path` is missing or damaged.
    """
    model = load(onnx_path)
    side = source_size or image_size
    front = _front(mean, std, side, image_size)
    back = helper.make_graph(
        [helper.make_node("Softmax", ["back_logits"], ["probabilities"], name="postprocess/Softmax", axis=-1)],
        "postprocess",
        [helper.make_tensor_value_info("back_logits", TensorProto.FLOAT, ["batch", None])],
        [_like(model.graph.output[0], "probabilities")],
    )
    opsets, ir_version = list(model.opset_import), model.ir_version
    merged = compose.merge_models(
        helper.make_model(front, opset_imports=opsets, ir_version=ir_version), model, [("front_input", INPUT_NAME)]
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


def _front(mean: Sequence[float], std: Sequence[float], side: int, image_size: int) -> onnx.GraphProto:
    """pixels uint8 [batch, side, side, 3] -> front_input float32 [batch, 3, image_size, image_size]."""
    channels = len(mean)
    # (x / 255 - mean) / std as one subtraction and one division, in units of pixel values.
    offset = (np.asarray(mean, np.float64) * 255).astype(np.float32).reshape(1, channels, 1, 1)
    spread = (np.asarray(std, np.float64) * 255).astype(np.float32).reshape(1, channels, 1, 1)
    constants = [numpy_helper.from_array(offset, "pixel_mean"), numpy_helper.from_array(spread, "pixel_std")]
    nodes = [
        helper.make_node("Transpose", ["pixels"], ["pixels_nchw"], name="preprocess/Transpose", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["pixels_nchw"], ["pixels_float"], name="preprocess/Cast", to=TensorProto.FLOAT),
    ]
    pixels = "pixels_float"
    if side != image_size:
        scale = np.array([1, 1, image_size / side, image_size / side], np.float32)
        constants.append(numpy_helper.from_array(scale, "resize_scale"))
        resize = helper.make_node(
            "Resize",
            [pixels, "", "resize_scale"],
            ["pixels_resized"],
            name="preprocess/Resize",
            mode="cubic",
            cubic_coeff_a=-0.5,
            antialias=1,
            exclude_outside=1,
            coordinate_transformation_mode="half_pixel",
        )
        # Pillow gives whole pixel values from 0 to 255 back; a cubic overshoots at edges.
        constants += [
            numpy_helper.from_array(np.array(value, np.float32), name)
            for name, value in (("pixel_low", 0), ("pixel_high", 255))
        ]
        nodes += [
            resize,
            helper.make_node(
                "Clip", ["pixels_resized", "pixel_low", "pixel_high"], ["pixels_clipped"], name="preprocess/Clip"
            ),
            helper.make_node("Round", ["pixels_clipped"], ["pixels_rounded"], name="preprocess/Round"),
        ]
        pixels = "pixels_rounded"
    nodes += [
        helper.make_node("Sub", [pixels, "pixel_mean"], ["pixels_centred"], name="preprocess/Sub"),
        helper.make_node("Div", ["pixels_centred", "pixel_std"], ["front_input"], name="preprocess/Div"),
    ]
    pixels_info = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", side, side, channels])
    shape = ["batch", channels, image_size, image_size]
    output = helper.make_tensor_value_info("front_input", TensorProto.FLOAT, shape)
    return helper.make_graph(nodes, "preprocess", [pixels_info], [output], constants)


def _like(info: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    renamed = onnx.ValueInfoProto()
    renamed.CopyFrom(info)
    renamed.name = name
    return renamed
