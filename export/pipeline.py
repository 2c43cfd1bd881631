"""From a trained model to the files of a run's export folder, each behind its gates.

In: a torch model and the images of its run. Out: ONNX files and engines, and export.json with everything measured. A
file has its final name only once it passed. Where a gate fails nothing is left at that name.
"""

import contextlib
import logging
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.special import softmax

from compress.data.originals import pixels, stratified
from compress.recipe import Export
from compress.system.attempts import attempting
from compress.system.errors import CompressError, GateError, InputError, MachineError
from compress.system.versions import version
from export.earlier import continue_earlier
from export.folder import ExportFolder
from export.gates import Source, Stage, gated, parity
from export.int8 import int8_files
from export.onnx import (
    PIXELS_NAME,
    PROBABILITIES_NAME,
    add_preprocessing,
    export_onnx,
    float_operators,
    largest_values,
    open_session,
    preprocessing_metadata,
    to_fp16,
    write_emulation,
)
from export.openvino import openvino, openvino_files
from export.records import PRECISIONS, ExportRecord, Format, RunPrecision
from export.runtimes import batches, normalise
from export.tensorrt import LIBRARIES, engine_files, tensorrt
from export.tensorrt.library import capabilities, check_version_compatible

logger = logging.getLogger(__name__)

_OTHER_MODEL = "The exporter cannot take this model: choose another architecture. --debug shows where."
_OTHER_FORMAT = "The other files stay: export without it, or choose another architecture. --debug shows where."
_PICTURES = 64  # on which the graph that takes pixels is compared with the evaluation
_RANGE_BATCH = 32
_UNLIMITED = {
    "max_fp16_top1_drop": 0.999,
    "max_int8_top1_drop": 0.999,
    "min_agreement": 1e-9,
    "min_int8_agreement": 1e-9,
}


@dataclass(frozen=True)
class Wanted:
    """Which files an export makes.

    threads: of ONNX Runtime while it measures; None for what this process may use. to_compare: no limit stops a file.
    engine_batches: which engines are tuned for, besides those of the settings.
    """

    formats: Collection[Format] = ("onnx",)
    precisions: Collection[RunPrecision] = ("fp32",)
    preprocess: bool = False
    threads: int | None = None
    to_compare: bool = False
    engine_batches: Sequence[int] = ()


def export_model(source: Source, folder: ExportFolder, settings: Export, wanted: Wanted) -> ExportRecord:
    """Exports a model. Files that passed their gates stay, whatever comes after them.

    A file that an earlier export made of the same weights (weights_sha256 in the provenance), data, settings and
    versions is not made again.

    Args:
        source: the model, its images and its provenance.
        folder: where the files go, and the name with which they begin.
        settings: limits of the gates, and how INT8 is calibrated and engines are built.
        wanted: which files to make.

    Returns:
        What export.json holds.

    Raises:
        GateError: a limit is missed. The files that passed are there, and export.json says what did not.
        MachineError: engines are wanted and TensorRT is missing. The ONNX files for it are there. Or OpenVINO is.
        InputError: torch cannot export the model.
    """
    if "openvino" in wanted.formats:
        openvino()
    header = _header(source, folder, settings, wanted)
    if wanted.to_compare:
        settings = settings.model_copy(update=_UNLIMITED)
    stage = Stage(
        source,
        folder,
        settings,
        wanted.threads,
        header,
        to_compare=wanted.to_compare,
        engine_batches=wanted.engine_batches,
    )
    continue_earlier(stage)
    if "trt" in wanted.formats:
        _note_tensorrt(stage)
    try:
        with attempting(f"exporting {folder.onnx().name}", hint=_OTHER_MODEL):
            _fp32(stage)
        _others(stage, wanted)
        before = {name: why for name, why in stage.record.failures.items() if name not in stage.record.files}
        stage.note(failures={**before, **{name: str(error) for name, error in stage.errors.items()}})
        stage.raise_failure()
    except BaseException as error:
        stage.note(failed=str(error) if isinstance(error, CompressError) else type(error).__name__)
        raise
    finally:
        left = {name: entry for name, entry in stage.earlier.items() if folder.file(name).exists()}
        stage.record = stage.record.model_copy(update={"files": {**left, **stage.record.files}})
        stage.record.write(folder.record_file)
        _warn_of_others(stage)
    return stage.record


def _others(stage: Stage, wanted: Wanted) -> None:
    """What is made of the FP32 file. Each file stands alone: where one fails, the others are still made."""
    folder, name = stage.folder, stage.folder.onnx().name
    if "fp16" in wanted.precisions:
        with stage.alone(folder.onnx("fp16"), f"converting {name} to fp16", _OTHER_FORMAT):
            _fp16(stage)
    if "int8" in wanted.precisions:
        int8_files(stage, wanted.formats)
    if wanted.preprocess:
        with stage.alone(folder.pixels, f"making {folder.pixels.name}", "Export without --preprocess."):
            _pixels(stage)
    if "openvino" in wanted.formats:
        openvino_files(stage, wanted.precisions)
    if "trt" in wanted.formats:
        for precision in PRECISIONS:
            if precision in wanted.precisions:
                engine, source = folder.engine(precision), folder.trt_onnx(precision).name
                with stage.alone(engine, f"building {engine.name}", _OTHER_FORMAT, MachineError):
                    if source not in stage.record.files:
                        raise InputError(f"{engine.name} is built from {source}, which was not made")
                    engine_files(stage, [precision])


def _header(source: Source, folder: ExportFolder, settings: Export, wanted: Wanted) -> ExportRecord:
    packages = ["compress", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow"]
    packages += ["openvino"] if "openvino" in wanted.formats else []
    ranges = source.input_ranges
    return ExportRecord(
        name=folder.name,
        provenance=dict(source.provenance),
        formats=sorted(wanted.formats),
        precisions=sorted(wanted.precisions),
        settings=settings.model_dump(mode="json"),
        data_sha256=source.data.sha256,
        eval_images=len(source.data.eval_images),
        int8_input_ranges=None if ranges is None else {layer: list(ends) for layer, ends in ranges.items()},
        versions={package: version(package) for package in packages},
        files={},
    )


def _note_tensorrt(stage: Stage) -> None:
    with contextlib.suppress(MachineError):
        # What cannot be built is refused before any work.
        capabilities(stage.settings.compute_capabilities)
        if stage.settings.version_compatible:
            check_version_compatible()
        stage.record.versions["tensorrt"] = f"{tensorrt().__name__} {tensorrt().__version__}"
    if "tensorrt" not in stage.record.versions:
        names = ", ".join(LIBRARIES)
        logger.info(f"none of {names} is installed: only the ONNX files for TensorRT will be written")


def _warn_of_others(stage: Stage) -> None:
    """What lies beside this export and is none of it: of other weights, data or settings."""
    names = map(stage.folder.key, stage.folder.models)
    if others := sorted(name for name in names if name not in stage.record.files):
        logger.warning(f"of an earlier export, and no part of this one: {', '.join(others)}")


def _metadata(source: Source) -> dict[str, str]:
    data = source.data
    return {
        **source.provenance,
        "class_names": "\n".join(data.class_names),
        **preprocessing_metadata(data.square, data.mean, data.std),
        "color_order": "RGB",
        **{f"version_{package}": version(package) for package in ("torch", "timm", "onnxscript")},
    }


def _fp32(stage: Stage) -> None:
    data, model = stage.data, stage.source.model
    size, channels = data.eval_images.shape[1], data.eval_images.shape[3]
    path = stage.folder.onnx()
    if stage.unchanged(path):
        return
    with gated(path) as temporary:
        export_onnx(model, temporary, image_size=size, channels=channels, metadata=_metadata(stage.source))
        parity.check_graph(temporary)
        measured = stage.check_parity(stage.ort(temporary), "the ONNX file")
    stage.keep(path, measured)


def _fp16(stage: Stage) -> None:
    path, settings = stage.folder.onnx("fp16"), stage.settings
    if stage.unchanged(path):
        return
    source, data = stage.folder.onnx(), stage.data
    inputs = (normalise(batch, data.mean, data.std) for batch in batches(stage.calibration_images, _RANGE_BATCH))
    largest = largest_values(source, inputs, stage.threads)
    kept = float_operators(source, largest)
    with gated(path) as temporary, tempfile.TemporaryDirectory() as elsewhere:
        to_fp16(source, temporary, keep_float=kept)
        parity.check_graph(temporary)
        parity.check_finite(stage.ort(temporary)(data.eval_images[:_RANGE_BATCH]), "FP16")
        emulation = Path(elsewhere) / path.name
        write_emulation(temporary, emulation)
        measured = stage.check_accuracy(
            stage.ort(emulation), settings.max_fp16_top1_drop, settings.min_agreement, "FP16", same_is_enough=True
        )
        measured["speedup_over_fp32"] = stage.speedup(temporary)
    if kept:
        logger.info(f"{path.name}: {len(kept)} operators stay in FP32, whose values reach {max(largest.values()):.3g}")
    stage.keep(path, {**measured, "float_layers": kept, "largest_value": max(largest.values())})


def _pixels(stage: Stage) -> None:
    """The graph with preprocessing inside must answer as the evaluation does, on pictures as their files have them."""
    data, path = stage.data, stage.folder.pixels
    if stage.unchanged(path):
        return
    rows = stratified(data.eval_labels, per_class=_PICTURES, most=_PICTURES)
    pictures = [pixels(picture) for picture in data.originals.evaluation(rows)]
    with gated(path) as temporary:
        add_preprocessing(stage.folder.onnx(), temporary, data.square, mean=data.mean, std=data.std)
        parity.check_graph(temporary)
        session = open_session(temporary, stage.threads)
        found = np.concatenate(
            [np.asarray(session.run([PROBABILITIES_NAME], {PIXELS_NAME: picture[None]})[0]) for picture in pictures]
        )
        squares = np.stack([data.square(Image.fromarray(picture)) for picture in pictures])
        expected = softmax(stage.ort(stage.folder.onnx())(squares).astype(np.float64), axis=1)
        agreement = parity.check_agreement(expected, found, stage.settings.min_agreement, path.name)
        diff = float(np.abs(found - expected).max())
        if not diff <= stage.settings.max_probability_diff:
            raise GateError(
                f"the probabilities of {path.name} differ by {diff:.3g}, "
                f"{stage.settings.max_probability_diff:.3g} allowed (export.max_probability_diff)",
                "The preprocessing inside the graph is not that of the evaluation",
            )
    stage.keep(path, {"outcome": "PASS", "probability_diff": diff, "agreement": agreement})
