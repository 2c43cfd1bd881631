"""From a trained model to the files of a run's export folder, each behind its gates.

In: a torch model and the images of its run. Out: ONNX files and engines, and export.json with everything measured. A
file has its final name only once it passed; where a gate fails nothing is left at that name.
"""

import contextlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.special import softmax
from torch import nn

from compress.data import Dataset
from compress.recipe import Export
from compress.system.distribution import version
from compress.system.errors import CompressError, GateError, MachineError
from compress.system.files import sha256_file, write_json
from export.gates import parity
from export.gates.stage import Stage, gated
from export.int8.files import int8_files
from export.onnx.export import add_preprocessing, export_onnx
from export.onnx.fp16 import to_fp16
from export.runtimes import TorchRuntime, open_session
from export.tensorrt.build import LIBRARIES, Precision, tensorrt
from export.tensorrt.engines import engine_files

Format = Literal["onnx", "trt"]
SCHEMA_VERSION = 1
_ENGINE_SETTINGS = ("workspace_mb", "version_compatible", "hardware_compatible", "compute_capabilities")


def export_student(
    model: nn.Module,
    *,
    out_dir: Path,
    data: Dataset,
    settings: Export,
    name: str = "student",
    formats: Collection[Format] = ("onnx",),
    precisions: Collection[Precision] = ("fp32",),
    preprocess: bool = False,
    provenance: Mapping[str, str] | None = None,
    input_ranges: Mapping[str, Sequence[float]] | None = None,
    threads: int | None = None,
    log: Callable[[str], None] = lambda line: None,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> dict[str, Any]:
    """Export `model` and return what export.json holds.

    `provenance`: strings for the metadata of the files, such as run, recipe_sha256, weights_sha256. `input_ranges`: of
    a model that was fine-tuned for INT8, (lowest, highest) input by layer; the rest is calibrated. `log`: one line for
    each file. `progress`: (phase, done, total) of long steps.
    Raises GateError when a limit is missed, MachineError when `formats` asks for TensorRT and there is none; the ONNX
    files that passed are then there, and export.json says what was not. A file that an earlier export made of the same
    weights (`provenance`'s weights_sha256), data, settings and versions is not made again.
    """
    stage = Stage(name, out_dir, data, settings, threads, input_ranges, log)
    stage.record = _header(stage, formats, precisions, provenance or {})
    _continue_earlier(stage)
    if "trt" in formats:
        with contextlib.suppress(MachineError):
            stage.record["versions"]["tensorrt"] = f"{tensorrt().__name__} {tensorrt().__version__}"
        if "tensorrt" not in stage.record["versions"]:
            log(f"none of {', '.join(LIBRARIES)} is installed: only the ONNX files for TensorRT will be written")
    try:
        _fp32(stage, model, _metadata(stage, provenance or {}))
        if "fp16" in precisions:
            _fp16(stage)
        if "int8" in precisions:
            int8_files(stage, formats, progress)
        if preprocess:
            _pixels(stage)
        if "trt" in formats:
            engine_files(stage, precisions, progress)
    except BaseException as error:
        stage.record["failed"] = str(error) if isinstance(error, CompressError) else type(error).__name__
        raise
    finally:
        left = {name: entry for name, entry in stage.earlier.items() if (out_dir / name).exists()}
        stage.record["files"] = {**left, **stage.record["files"]}
        write_json(stage.record_path, stage.record)
        _warn_of_others(stage)
    return stage.record


def _header(
    stage: Stage, formats: Collection[str], precisions: Collection[str], provenance: Mapping[str, str]
) -> dict[str, Any]:
    packages = ("compress", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")
    return {
        "schema_version": SCHEMA_VERSION,
        "name": stage.name,
        "provenance": dict(provenance),
        "formats": sorted(formats),
        "precisions": sorted(precisions),
        "settings": stage.settings.model_dump(mode="json"),
        "data_sha256": stage.data.sha256,
        "eval_images": len(stage.data.eval_images),
        "int8_input_ranges": stage.input_ranges,
        "versions": {package: version(package) for package in packages},
        "files": {},
    }


def _continue_earlier(stage: Stage) -> None:
    """Take over what an earlier export left, where everything that determines its ONNX files is the same."""

    def determined_by(record: dict[str, Any]) -> tuple[Any, ...]:
        settings = {key: value for key, value in record["settings"].items() if key not in _ENGINE_SETTINGS}
        versions = {key: value for key, value in record["versions"].items() if key != "tensorrt"}
        source = {key: value for key, value in record["provenance"].items() if key != "run"}  # it may be renamed
        return settings, versions, source, *(record[key] for key in ("data_sha256", "eval_images", "int8_input_ranges"))

    try:
        earlier = json.loads(stage.record_path.read_text(encoding="utf-8"))
        known = stage.record["provenance"].get("weights_sha256")
        if not known or determined_by(earlier) != determined_by(stage.record):
            return
        stage.earlier = {
            name: entry
            for name, entry in earlier["files"].items()
            if (stage.out_dir / name).exists() and sha256_file(stage.out_dir / name) == entry["sha256"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    stage.record |= {key: earlier[key] for key in ("calibration", "layer_sensitivity") if key in earlier}


def _warn_of_others(stage: Stage) -> None:
    """What lies beside this export and is none of it: of other weights, data or settings."""
    found = [path for suffix in ("onnx", "engine") for path in stage.out_dir.glob(f"{stage.name}.*{suffix}")]
    if others := sorted(path.name for path in found if path.name not in stage.record["files"]):
        stage.log(f"warning: of an earlier export, and no part of this one: {', '.join(others)}")


def _metadata(stage: Stage, provenance: Mapping[str, str]) -> dict[str, str]:
    data = stage.data
    return {
        **provenance,
        "class_names": "\n".join(data.class_names),
        "mean": ",".join(f"{value:.9g}" for value in data.mean),
        "std": ",".join(f"{value:.9g}" for value in data.std),
        "image_size": str(data.eval_images.shape[1]),
        "color_order": "RGB",
        **{f"version_{package}": version(package) for package in ("torch", "timm", "onnxscript")},
    }


def _fp32(stage: Stage, model: nn.Module, metadata: dict[str, str]) -> None:
    data, settings = stage.data, stage.settings
    size, channels = data.eval_images.shape[1], data.eval_images.shape[3]
    path = stage.path(".onnx")
    if stage.unchanged(path):
        return
    with gated(path) as temporary:
        export_onnx(model, temporary, image_size=size, channels=channels, metadata=metadata)
        parity.check_graph(temporary)
        reference, candidate = TorchRuntime(model, data.mean, data.std), stage.ort(temporary)
        measured = parity.check_logits(
            reference,
            candidate,
            shape=(channels, size, size),
            batches=(1, 2, 7, settings.batches[2]),
            max_diff=settings.max_logit_diff,
        )
        stage.fp32_logits = candidate(data.eval_images)
        agreement = parity.check_agreement(
            reference(data.eval_images), stage.fp32_logits, settings.min_agreement, "the ONNX file"
        )
    top1 = float((stage.fp32_logits.argmax(1) == data.eval_labels).mean())
    stage.keep(path, {"logit_diff_by_batch": measured, "agreement": agreement, "top1": top1})


def _fp16(stage: Stage) -> None:
    path, settings = stage.path(".fp16.onnx"), stage.settings
    if stage.unchanged(path):
        return
    with gated(path) as temporary:
        to_fp16(stage.path(".onnx"), temporary)
        parity.check_graph(temporary)
        measured = stage.check_accuracy(
            stage.ort(temporary), settings.max_fp16_top1_drop, settings.min_agreement, "FP16"
        )
    stage.keep(path, measured)


def _pixels(stage: Stage) -> None:
    """The graph with preprocessing inside must give the softmax of the logits, on real images."""
    data, path = stage.data, stage.path(".pixels.onnx")
    if stage.unchanged(path):
        return
    images = data.eval_images[:64]
    with gated(path) as temporary:
        add_preprocessing(stage.path(".onnx"), temporary, mean=data.mean, std=data.std, image_size=images.shape[1])
        parity.check_graph(temporary)
        session = open_session(temporary, stage.threads)
        probabilities = np.asarray(session.run(["probabilities"], {"pixels": images})[0])
        expected = softmax(stage.fp32_logits[: len(images)].astype(np.float64), axis=1)
        diff = float(np.abs(probabilities - expected).max())
        if not diff <= stage.settings.max_logit_diff:
            raise GateError(
                f"the probabilities of {path.name} differ by {diff:.3g}, {stage.settings.max_logit_diff:.3g} allowed",
                "The preprocessing inside the graph is not that of training",
            )
    stage.keep(path, {"probability_diff": diff})
