"""A model as an ONNX file. In: a torch module. Out: a checked graph with weights and metadata inside.

Files are also read, run and made smaller here: an FP16 form, and one with preprocessing inside.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.onnx.export import add_preprocessing, export_onnx, export_preprocessing
    from export.onnx.file import (
        INPUT_NAME,
        OUTPUT_NAME,
        PIXELS_NAME,
        PROBABILITIES_NAME,
        get_metadata,
        load,
        save,
        set_metadata,
    )
    from export.onnx.fp16 import float_operators, to_fp16, write_emulation
    from export.onnx.preprocessing import preprocessing_metadata
    from export.onnx.ranges import largest_values, measured
    from export.onnx.session import default_threads, open_session, session_options

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "PIXELS_NAME",
    "PROBABILITIES_NAME",
    "add_preprocessing",
    "default_threads",
    "export_onnx",
    "export_preprocessing",
    "float_operators",
    "get_metadata",
    "largest_values",
    "load",
    "measured",
    "open_session",
    "preprocessing_metadata",
    "save",
    "session_options",
    "set_metadata",
    "to_fp16",
    "write_emulation",
]

_HOMES = {
    "add_preprocessing": "export.onnx.export",
    "export_onnx": "export.onnx.export",
    "export_preprocessing": "export.onnx.export",
    "preprocessing_metadata": "export.onnx.preprocessing",
    "INPUT_NAME": "export.onnx.file",
    "OUTPUT_NAME": "export.onnx.file",
    "PIXELS_NAME": "export.onnx.file",
    "PROBABILITIES_NAME": "export.onnx.file",
    "get_metadata": "export.onnx.file",
    "load": "export.onnx.file",
    "save": "export.onnx.file",
    "set_metadata": "export.onnx.file",
    "float_operators": "export.onnx.fp16",
    "to_fp16": "export.onnx.fp16",
    "write_emulation": "export.onnx.fp16",
    "largest_values": "export.onnx.ranges",
    "measured": "export.onnx.ranges",
    "default_threads": "export.onnx.session",
    "open_session": "export.onnx.session",
    "session_options": "export.onnx.session",
}
__getattr__ = hand_on(__name__, _HOMES)
