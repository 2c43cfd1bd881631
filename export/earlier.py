"""What an export takes over from the one before it: files whose inputs did not change are kept, and stay recorded.

In: a Stage whose record says how its files will be made. Out: the entries of the files that may stay, in the Stage.
"""

import re
from typing import Any

from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.folder import ir_weights
from export.gates import Stage
from export.int8 import has_vnni
from export.records import ExportRecord, FileRecord

_INT8, _FP16, _ENGINE, _OPENVINO, _PIXELS = "int8", "fp16", "engine", "openvino", "pixels"
_CONCERNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("formats", "precisions"), ()),  # they say which files are made, not how
    **dict.fromkeys(("calibration_method", "sensitivity_images", "min_int8_macs", "int8_minutes"), (_INT8,)),
    **dict.fromkeys(("max_int8_top1_drop", "min_int8_agreement"), (_INT8,)),
    **dict.fromkeys(("calibration_images", "calibration_seed"), (_INT8, _FP16)),
    "max_fp16_top1_drop": (_FP16, _OPENVINO),  # which computes in bf16, too
    "min_agreement": (_FP16, _OPENVINO, _ENGINE, _PIXELS),
    "max_probability_diff": (_PIXELS,),
    **dict.fromkeys(("workspace_mb", "version_compatible", "hardware_compatible", "compute_capabilities"), ()),
}
"""The files that a setting matters to, by a word of their names. One that is not here matters to all.

An engine is built whenever it is wanted. Its own record says for what.
"""
_BESIDE_ONNX = ("tensorrt", "openvino")


def continue_earlier(stage: Stage) -> None:
    """Takes over what an earlier export left, where everything that determines a file is the same.

    What is made to compare with is added to whatever was exported of the same weights and data, under its record.
    """
    try:
        earlier = stage.folder.record()
    except (OSError, InputError):
        return
    record = stage.record
    if not record.provenance.get("weights_sha256") or _source(earlier) != _source(record):
        return
    if stage.to_compare:
        stage.earlier = _whole({name: entry for name, entry in earlier.files.items() if _intact(stage, name, entry)})
        stage.record = earlier.model_copy(update={"files": {}})
        return
    if _versions(earlier) != _versions(record):
        return
    stage.earlier = _whole(
        {
            name: entry
            for name, entry in earlier.files.items()
            if _settings(earlier, name) == _settings(record, name)
            and _for_this_cpu(earlier, name)
            and _intact(stage, name, entry)
        }
    )
    if stage.earlier:
        stage.record = record.model_copy(update={"versions": {**earlier.versions, **record.versions}})
    if _settings(earlier, _INT8) == _settings(record, _INT8) and _for_this_cpu(earlier, _INT8):
        stage.note(
            calibration=earlier.calibration,
            layer_sensitivity=earlier.layer_sensitivity,
            layer_sensitivity_trt=earlier.layer_sensitivity_trt,
        )


def _source(record: ExportRecord) -> tuple[Any, ...]:
    provenance = {key: value for key, value in record.provenance.items() if key != "run"}  # it may be renamed
    return provenance, record.data_sha256, record.eval_images, record.int8_input_ranges


def _versions(record: ExportRecord) -> dict[str, str]:
    return {key: value for key, value in record.versions.items() if key not in _BESIDE_ONNX}


def _settings(record: ExportRecord, name: str) -> dict[str, Any]:
    """Those that matter to a file."""
    words = set(re.split(r"[./]", name))
    return {key: value for key, value in record.settings.items() if key not in _CONCERNS or words & {*_CONCERNS[key]}}


def _for_this_cpu(record: ExportRecord, name: str) -> bool:
    """Whether an INT8 file has weights of as many bits as this CPU can add without saturating, or is none."""
    if record.calibration is None or _INT8 not in re.split(r"[./]", name):
        return True
    return record.calibration.reduced_range == (not has_vnni())


def _intact(stage: Stage, name: str, entry: FileRecord) -> bool:
    path = stage.folder.file(name)
    return path.exists() and sha256_file(path) == entry.sha256


def _whole(files: dict[str, FileRecord]) -> dict[str, FileRecord]:
    """Without IRs that lack one of their two files."""
    lone = {name for name in files if name.endswith(".xml") and ir_weights(name) not in files}
    lone |= {name for name in files if name.endswith(".bin") and f"{name.removesuffix('.bin')}.xml" not in files}
    return {name: entry for name, entry in files.items() if name not in lone}
