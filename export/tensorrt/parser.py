"""TensorRT's own parser, which also judges where no GPU is: TensorRT for RTX has one that needs none.

In: an ONNX file. Out: TensorRT's network of it, or the nodes that the parser refuses.
"""

import logging
from pathlib import Path
from typing import Any

from compress.system.errors import InputError, MachineError
from export.tensorrt.library import gpu_object, tensorrt, tensorrt_logger
from export.tensorrt.lint import lint_for_tensorrt

logger = logging.getLogger(__name__)


def parse(onnx_path: Path) -> tuple[Any, Any, list[str]]:
    """The builder, the strongly typed network, and why the parser refuses the file, node by node.

    The network is whole where there is no reason.

    Raises:
        InputError: the file cannot be read.
        MachineError: there is no TensorRT, or it needs a GPU that is not here.
    """
    trt, messages = tensorrt(), tensorrt_logger()
    builder = gpu_object(lambda: trt.Builder(messages), "builder")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        content = onnx_path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {onnx_path}: {error.strerror}", "Export the run to ONNX first") from error
    parser = trt.OnnxParser(network, messages)
    if parser.parse(content):
        return builder, network, []
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = [f"{error.node_name() or '?'} ({error.node_operator() or '?'}): {error.desc()}" for error in errors]
    return builder, network, reasons or [messages.last()]


def refusals(onnx_path: Path) -> list[str]:
    """Why TensorRT would not take an ONNX file: by its parser where that runs, else by `lint_for_tensorrt`.

    Returns:
        Every reason, with the node's name and operator. Empty where TensorRT takes the file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return parse(onnx_path)[2]
    except MachineError as error:
        logger.debug(f"no parser of TensorRT: {error}")
        return lint_for_tensorrt(onnx_path)
