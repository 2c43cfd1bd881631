"""`compress export`: the student of a finished run, and its teacher where asked for, to the files of RUN/export."""

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError
from torch import nn

from compress.data import Dataset
from compress.recipe import Export, changed_recipe
from compress.runs.data import data_of_student
from compress.runs.folder import Run, finished_run
from compress.runs.locks import held
from compress.runs.student import load_student
from compress.system.arguments import require_each, require_type
from compress.system.errors import InputError, UsageError
from export.benchmark import read_benchmark
from export.benchmark.bundled import other_defaults
from export.delivery import Recommended, make_bundle, read_manifest
from export.delivery.default import measured_default, unmeasured_default
from export.delivery.golden import LIBRARIES
from export.folder import ExportFolder, given_run, ir_weights, read_export
from export.pipeline import Wanted, export_model
from export.records import FORMATS, PRECISIONS, ExportRecord, FileRecord, Format, RunPrecision
from export.report.formats import md
from export.sources import student_source, teacher_source

logger = logging.getLogger(__name__)

BundleKind = Literal["folder", "zip"]


def export_run(
    run: Run | str | Path,
    *,
    formats: Collection[Format] | None = None,
    precisions: Collection[RunPrecision] | None = None,
    preprocess: bool = False,
    teacher: bool = False,
    bundle: BundleKind | None = None,
    threads: int | None = None,
    compute_capabilities: Collection[str] = (),
    overrides: Sequence[str] = (),
    model: nn.Module | None = None,
    teacher_model: nn.Module | None = None,
) -> ExportRecord:
    """Writes the files of a finished run that are deployed to RUN/export.

    Args:
        run: a finished run, or its folder.
        formats: onnx for ONNX Runtime, trt for TensorRT, openvino for OpenVINO. None: the recipe's export.formats.
        precisions: fp32, fp16, int8; for openvino also bf16, in which it computes what the FP32 file has. None: the
            recipe's export.precisions.
        preprocess: also a graph that takes uint8 pixels and gives probabilities.
        teacher: also export the teacher.
        bundle: "folder" or "zip" also makes RUN/export/bundle or bundle.zip, with all that a deployer needs. Its
            default model is the fastest that passes its gates, by `compress benchmark` where it has measured them.
        threads: of ONNX Runtime; None takes what this process may use.
        compute_capabilities: GPUs to build engines for, such as "89", instead of the recipe's.
        overrides: "export.key=value", settings instead of the recipe's, as for --set.
        model: a module to fill with the student's weights, where `distill` was given one.
        teacher_model: the same for the teacher, where `teacher` is wanted.

    Returns:
        What export.json holds.

    Raises:
        UsageError: an argument or an override is wrong; a compute capability names no GPU, or is given without the
            format trt; or bf16 without openvino. The teacher is wanted and has no last layer; or its module is given
            and it is not wanted.
        InputError: the run is not finished, or its weights or data are not those of its manifest.
        GateError: a file misses a limit of the recipe. Those that passed are there, and so is the bundle of them.
        MachineError: engines are wanted and TensorRT is missing, or IRs and OpenVINO is, or bf16 and the CPU has none;
            or another process is using the run.
    """
    _check(formats, precisions, preprocess, teacher, bundle, threads, compute_capabilities, model, teacher_model)
    run = finished_run(given_run(run).path)
    if teacher and not run.result.teacher_classifies:
        raise UsageError(
            f"the teacher of {run.path} has no last layer: it classifies nothing that a file could be measured by",
            "Leave out --teacher.",
        )
    if teacher_model is not None and not teacher:
        raise UsageError("teacher_model is given, but the teacher is not exported", "Give teacher=True, too.")
    recipe = changed_recipe(run.recipe, overrides, section="export")
    formats = tuple(recipe.export.formats if formats is None else formats)
    precisions = tuple(recipe.export.precisions if precisions is None else precisions)
    if "bf16" in precisions and "openvino" not in formats:
        raise UsageError("only OpenVINO computes in bf16 here", "Add --format openvino, or leave out --precision bf16.")
    settings = _settings(recipe.export, formats, compute_capabilities)
    wanted = Wanted(formats, precisions, preprocess, threads, engine_batches=recipe.benchmark.batches)
    folder = ExportFolder(run.export)
    with held(run.path), _warning_of_bundles(folder):
        student = load_student(run, model=model)
        dataset = data_of_student(run)
        errors: list[Exception] = []
        with _kept_for_later(errors):
            export_model(student_source(run, student, dataset), folder, settings, wanted)
        if errors and not _is_exported(run):
            raise errors[0]
        if teacher:
            unprocessed = dataclasses.replace(wanted, preprocess=False)
            with _kept_for_later(errors):
                export_model(teacher_source(run, teacher_model), folder.of("teacher"), settings, unprocessed)
        if bundle is not None:
            _bundle(run, folder, dataset, bundle, wanted)
            _say_other_default(run)
        for error in errors:
            raise error
        return folder.record()


def _check(
    formats: Any,
    precisions: Any,
    preprocess: Any,
    teacher: Any,
    bundle: Any,
    threads: Any,
    capabilities: Any,
    model: Any,
    teacher_model: Any,
) -> None:
    """Raises UsageError for an argument of `export_run` that has a wrong type or value."""
    for name, values, choices in (("formats", formats, FORMATS), ("precisions", precisions, get_args(RunPrecision))):
        if values is None:  # the recipe's
            continue
        hint = f'For example ["{choices[-1]}"].'
        require_each(values, str, f"export_run: {name}", choices=choices, hint=hint)
        if not values:
            raise UsageError(f"export_run: {name} names none of {', '.join(choices)}", hint)
    require_each(capabilities, str, "export_run: compute_capabilities", hint='For example ["89"].')
    for name, value in (("preprocess", preprocess), ("teacher", teacher)):
        require_type(value, bool, f"export_run: {name}")
    if bundle is not None:
        kinds = get_args(BundleKind)
        require_each([bundle], str, "export_run: bundle", choices=kinds, hint=f"It is {' or '.join(kinds)}, or None.")
    require_type(threads, (int, type(None)), "export_run: threads")
    if threads is not None and threads < 1:
        raise UsageError(f"export_run: threads must be at least 1, and is {threads}")
    for name, module in (("model", model), ("teacher_model", teacher_model)):
        require_type(module, (nn.Module, type(None)), f"export_run: {name}")


@contextlib.contextmanager
def _kept_for_later(errors: list[Exception]) -> Iterator[None]:
    """What fails in one model leaves the other and the bundle whole."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it is raised once the rest is made
        errors.append(error)


def _settings(export: Export, formats: Collection[Format], capabilities: Collection[str]) -> Export:
    """The recipe's, with the compute capabilities that were asked for."""
    if not capabilities:
        return export
    if "trt" not in formats:
        raise UsageError("--capability is of engines, and none are built", "Add --format trt.")
    try:
        return Export.model_validate({**export.model_dump(), "compute_capabilities": list(capabilities)})
    except ValidationError as error:
        strange = error.errors()[0]["input"]
        raise UsageError(f"--capability {strange!r} names no GPU", "For example: --capability 89.") from None


@contextlib.contextmanager
def _warning_of_bundles(folder: ExportFolder) -> Iterator[None]:
    """Also where a gate fails: a bundle of other files than the export now has passes `compress verify` as ever."""
    try:
        yield
    finally:
        for path in (folder.bundle, folder.bundle_zip):
            if path.exists() and not _bundled_files(path) <= {entry.sha256 for entry in _recorded(folder).values()}:
                logger.warning(f"{path} is of an earlier export: --bundle makes it anew")


def _bundled_files(bundle: Path) -> set[str]:
    """Their hashes. Of a bundle that cannot be read that of no file."""
    try:
        manifest = read_manifest(bundle)
        models = [manifest.path(name) for name in manifest.models]
        weights = [ir_weights(path) for path in models if path.endswith(".xml")]
        return {manifest.files[path] for path in [*models, *weights]}
    except (InputError, KeyError):
        return {""}


def _is_exported(run: Run) -> bool:
    """Whether there is an FP32 file of the student's weights. An export that fails at once leaves the one before it."""
    try:
        read_export(run)
    except InputError:
        return False
    return True


def _recorded(folder: ExportFolder) -> Mapping[str, FileRecord]:
    """The files by name. None where there is no record that can be read."""
    try:
        return folder.record().files
    except (OSError, InputError):
        return {}


def _bundle(run: Run, folder: ExportFolder, dataset: Dataset, kind: BundleKind, wanted: Wanted) -> None:
    exported, threads = folder.record().files, wanted.threads

    def by_speed(path: Path) -> float:
        return -(exported[folder.key(path)].speedup_over_fp32 or 1.0)

    found = [path for path in map(folder.onnx, reversed(PRECISIONS)) if path.name in exported]
    files = sorted(found, key=by_speed)
    if "openvino" in wanted.formats:
        irs = [path for path in map(folder.openvino, reversed(PRECISIONS)) if folder.key(path) in exported]
        irs.sort(key=by_speed)
        files = files + irs if "onnx" in wanted.formats else irs + files
    records = {path: exported[folder.key(path)] for path in files}
    best = measured_default(run, folder)
    default = best.path if best else unmeasured_default(files, records)
    files.sort(key=lambda path: path != default)
    if folder.pixels.name in exported:
        files.append(folder.pixels)
    records = {path: exported[folder.key(path)] for path in [default, *files]}
    card = _card(run, dataset, records, best)
    if kind == "zip":
        make_bundle(folder.bundle_zip, files, dataset, recommended=best, card=card, threads=threads)
        return
    shutil.rmtree(folder.new_bundle, ignore_errors=True)
    make_bundle(folder.new_bundle, files, dataset, recommended=best, card=card, threads=threads)
    shutil.rmtree(folder.bundle, ignore_errors=True)
    folder.new_bundle.rename(folder.bundle)


def _say_other_default(run: Run) -> None:
    """Where the benchmark recommends a file that this export has not, or has made anew."""
    try:
        for line in other_defaults(run, read_benchmark(run)):
            logger.warning(line)
    except InputError:
        return  # not measured, or of other weights


def _card(run: Run, dataset: Dataset, files: Mapping[Path, FileRecord], best: Recommended | None) -> str:
    """What was measured of each file. The first is the default one. `best`: the runtime that it has as the default."""
    manifest = run.result
    (default, entry), *_ = files.items()
    shown, top1 = f"`1/{default.name}`", entry.top1
    if best is not None:
        shown += f" in {LIBRARIES[best.about.runtime]} as {best.about.precision.upper()}"
        top1 = top1 if best.top1 is None else best.top1
    split = f"{md(manifest.data.eval_split)} of {md(dataset.name)}"
    lines = [
        f"{shown} is the default. Its top-1 is {top1:.2%} on {split} "
        f"({len(dataset.eval_labels):,} images). It was distilled by {manifest.method}; its teacher has "
        f"{manifest.teacher_accuracy}.",
        "",
        "| file | top-1 | at its gate |",
        "|---|---:|---|",
    ]
    for path, each in files.items():
        of_file = "as FP32" if each.top1 is None else f"{each.top1:.2%}"
        outcome = each.undecided if each.outcome == "UNDECIDED" else "; ".join(filter(None, ("PASS", each.undecided)))
        lines.append(f"| `1/{path.name}` | {of_file} | {outcome} |")
    return "\n".join(lines) + "\n"
