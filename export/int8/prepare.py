"""An ONNX file made ready for quantisation: constants folded, every tensor's type known.

In: a float32 ONNX file. Out: the same computation, as ONNX Runtime's quantiser wants it.
"""

import logging
from pathlib import Path

from onnxruntime.quantization.shape_inference import quant_pre_process

from compress.system.errors import InputError, first_line

logger = logging.getLogger(__name__)


def prepare(src: Path, dst: Path) -> None:
    """Writes the prepared file.

    Symbolic shape inference does not follow every graph: it stops at torch's ReduceL2 (ConvNeXtV2, XCiT), at Resize
    (HRNet) and at computed windows (VOLO). The quantiser needs types alone, and ONNX's own inference finds those.

    Args:
        src: a float32 ONNX file.
        dst: the file to write.

    Raises:
        InputError: ONNX Runtime cannot prepare it either way.
    """
    try:
        quant_pre_process(src, dst)
    except Exception as error:  # noqa: BLE001 (it fails with a bare Exception, TypeError, AssertionError, ...)
        logger.debug(f"without symbolic shapes: {first_line(error)}")
        quant_pre_process(src, dst, skip_symbolic_shape=True)
    if not dst.exists():
        raise InputError(f"ONNX Runtime cannot prepare {src} for quantisation", "Export it again")
