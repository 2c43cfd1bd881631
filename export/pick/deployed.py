"""Which files `compress export` must make so that a student is deployed as it was chosen.

In: the row of the student, if it was measured. Out: export.formats and export.precisions of a recipe.
"""

from export.openvino import installed
from export.pick.rank import Row
from export.records import Format, RunPrecision


def formats_of(row: Row | None) -> list[Format]:
    """ONNX Runtime's, and OpenVINO's where it is here: the benchmark finds which is faster for the trained student."""
    return ["onnx", "openvino"] if installed() or (row is not None and row.runtime == "openvino") else ["onnx"]


def precisions_of(row: Row | None) -> list[RunPrecision]:
    """FP32 and INT8, and what the row is fastest in."""
    found: list[RunPrecision] = ["fp32", *([row.precision] if row else []), "int8"]
    return list(dict.fromkeys(found))
