"""OpenVINO as a runtime and a format. In: ONNX files of an export. Out: IR files behind gates, and a way to run either.

The library is imported when it is first needed. The rest of the package works without it.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from export.openvino.description import described
    from export.openvino.files import openvino_files
    from export.openvino.runtime import OpenVinoPictures, OpenVinoRuntime
    from export.openvino.session import (
        EXECUTION,
        Execution,
        Session,
        core,
        installed,
        openvino,
        own_execution,
        session_options,
        unusable,
    )

__all__ = [
    "EXECUTION",
    "Execution",
    "OpenVinoPictures",
    "OpenVinoRuntime",
    "Session",
    "core",
    "described",
    "installed",
    "openvino",
    "openvino_files",
    "own_execution",
    "session_options",
    "unusable",
]

_HOMES = {
    **dict.fromkeys(__all__, "export.openvino.session"),
    "described": "export.openvino.description",
    "OpenVinoPictures": "export.openvino.runtime",
    "OpenVinoRuntime": "export.openvino.runtime",
    "openvino_files": "export.openvino.files",
}
__getattr__ = hand_on(__name__, _HOMES)
