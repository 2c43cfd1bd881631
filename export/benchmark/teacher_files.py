"""The teacher as files of its own, in the precisions of the student's: what exporting it alone would have given.

In: a run whose student was exported. Out: RUN/export/teacher*.onnx, so that like is compared with like.
"""

import logging

from torch import nn

from compress.runs.folder import Run
from compress.system.errors import CompressError, InputError
from export.benchmark.limits import recorded_settings
from export.folder import ExportFolder, read_export
from export.pipeline import Wanted, export_model
from export.records import PRECISIONS, ExportRecord, Precision
from export.sources import teacher_source

logger = logging.getLogger(__name__)


def make_teacher_files(run: Run, model: nn.Module | None = None, *, threads: int | None = None) -> None:
    """Exports the teacher for ONNX Runtime in the precisions that it lacks. Where that fails it is said, and no more.

    What `compress export --teacher` made stays, and its settings are those of what is added. No limit stops a file: the
    limits are for what is deployed. The teacher's file is compared with as it is, and its accuracy is shown.
    """
    names = read_export(run).files
    student, teacher = ExportFolder(run.export), ExportFolder(run.export, "teacher")
    there = _exported_before(run, teacher)
    missing: list[Precision] = [
        precision
        for precision in PRECISIONS
        if student.onnx(precision).name in names and (there is None or teacher.onnx(precision).name not in there.files)
    ]
    if not missing:
        return
    logger.info(f"exporting the teacher as {', '.join(missing)}, to compare like with like")
    try:
        settings = run.recipe.export if there is None else recorded_settings(there, run.recipe.export)
        wanted = Wanted(("onnx",), missing, threads=threads, to_compare=True)
        export_model(teacher_source(run, model), teacher, settings, wanted)
    except CompressError as error:
        logger.warning(f"the student is not compared with files of the teacher: {error.message}")


def _exported_before(run: Run, teacher: ExportFolder) -> ExportRecord | None:
    """The record of the teacher's export. None where there is none that is whole and of its weights."""
    try:
        return read_export(run, "teacher") if teacher.record_file.exists() else None
    except InputError:
        return None
