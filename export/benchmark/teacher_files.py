"""The teacher as files of its own, in the precisions of the student's: what exporting it alone would have given.

In: a run whose student was exported. Out: RUN/export/teacher*.onnx and engines, so that like is compared with like.
"""

import logging

from torch import nn

from compress.runs.folder import Run
from compress.system.errors import CompressError, InputError
from export.benchmark.limits import recorded_settings
from export.folder import ExportFolder, read_export
from export.pipeline import Wanted, export_model
from export.records import PRECISIONS, ExportRecord, Format, Precision
from export.sources import teacher_source

logger = logging.getLogger(__name__)


def make_teacher_files(
    run: Run, model: nn.Module | None = None, *, threads: int | None = None, engines: bool = False
) -> None:
    """Exports the teacher for ONNX Runtime in the precisions that it lacks. Where that fails it is said, and no more.

    engines: also for TensorRT, in the precisions in which the student has engines, for the same GPUs.

    What `compress export --teacher` made stays, and its settings are those of what is added. No limit stops a file: the
    limits are for what is deployed. The teacher's file is compared with as it is, and its accuracy is shown.
    """
    record = read_export(run)
    names, exported = record.files, recorded_settings(record, run.recipe.export)
    student, teacher = ExportFolder(run.export), ExportFolder(run.export, "teacher")
    there = _exported_before(run, teacher)
    missing: list[Precision] = [
        precision
        for precision in PRECISIONS
        if student.onnx(precision).name in names and (there is None or teacher.onnx(precision).name not in there.files)
    ]
    built: list[Precision] = [
        precision
        for precision in PRECISIONS
        if engines
        and student.engine(precision).name in names
        and (there is None or teacher.engine(precision).name not in there.files)
    ]
    formats: list[Format] = [*(["onnx"] if missing else []), *(["trt"] if built else [])]
    if not formats:
        return
    wanted_precisions: list[Precision] = [precision for precision in PRECISIONS if precision in {*missing, *built}]
    logger.info(f"exporting the teacher as {', '.join(wanted_precisions)}, to compare like with like")
    try:
        settings = exported if there is None else recorded_settings(there, exported)
        settings = settings.model_copy(update={"compute_capabilities": exported.compute_capabilities})
        tuned = run.recipe.benchmark.batches
        wanted = Wanted(formats, wanted_precisions, threads=threads, to_compare=True, engine_batches=tuned)
        export_model(teacher_source(run, model), teacher, settings, wanted)
    except CompressError as error:
        logger.warning(f"the student is not compared with all files of the teacher: {error.message}")


def _exported_before(run: Run, teacher: ExportFolder) -> ExportRecord | None:
    """The record of the teacher's export. None where there is none that is whole and of its weights."""
    try:
        return read_export(run, "teacher") if teacher.record_file.exists() else None
    except InputError:
        return None
