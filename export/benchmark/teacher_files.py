"""The teacher as files of its own, in the precisions of the student's: what exporting it alone would have given.

In: a run whose student was exported. Out: RUN/export/teacher*.onnx, so that like is compared with like.
"""

import logging

from torch import nn

from compress.runs.folder import Run
from compress.system.errors import CompressError, InputError
from export.folder import ExportFolder, read_export
from export.pipeline import Wanted, export_model
from export.records import PRECISIONS, Precision
from export.sources import teacher_source

logger = logging.getLogger(__name__)

_UNLIMITED = {
    "max_fp16_top1_drop": 0.999,
    "max_int8_top1_drop": 0.999,
    "min_agreement": 1e-9,
    "min_int8_agreement": 1e-9,
}
"""The limits are for what is deployed. The teacher's file is compared with as it is, and its accuracy is shown."""


def make_teacher_files(run: Run, model: nn.Module | None = None, *, threads: int | None = None) -> None:
    """Exports the teacher for ONNX Runtime, unless its files are there. Where that fails it is said, and no more."""
    names = read_export(run).files
    student, teacher = ExportFolder(run.export), ExportFolder(run.export, "teacher")
    wanted: list[Precision] = [precision for precision in PRECISIONS if student.onnx(precision).name in names]
    try:
        there = read_export(run, "teacher").files if teacher.record_file.exists() else {}
    except InputError:
        there = {}
    if all(teacher.onnx(precision).name in there for precision in wanted):
        return
    logger.info(f"exporting the teacher as {', '.join(wanted)}, to compare like with like")
    try:
        settings = run.recipe.export.model_copy(update=_UNLIMITED)
        export_model(teacher_source(run, model), teacher, settings, Wanted(("onnx",), wanted, threads=threads))
    except CompressError as error:
        logger.warning(f"the student is not compared with files of the teacher: {error.message}")
