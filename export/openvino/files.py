"""The IR files of an export, each behind the gates of its precision, with OpenVINO's own answers.

In: the ONNX files of the stage. Out: openvino/student[.PRECISION].xml with its .bin, for FP32, FP16 and INT8.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from compress.system.errors import GateError, MachineError
from export.gates import Stage, parity
from export.onnx import get_metadata, load
from export.openvino.fastest import median_times
from export.openvino.runtime import OpenVinoRuntime
from export.openvino.session import EXECUTION, Execution, core, openvino, own_execution
from export.openvino.weights import store_int8_weights
from export.records import RunPrecision

logger = logging.getLogger(__name__)


def openvino_files(stage: Stage, precisions: Collection[RunPrecision]) -> None:
    """Makes the IR of each precision. bf16 has none of its own: what it does to the FP32 one is measured.

    Why a file could not be made, or fails in bf16, is kept in the stage.
    """
    folder = stage.folder
    in_lower: parity.Judged | None = None
    with _alone(stage, folder.openvino("fp32")):
        in_lower = _fp32(stage, asked="bf16" in precisions)
    if "bf16" in precisions:
        with _alone(stage, folder.openvino("fp32"), execution="bf16"):
            _check_bf16(in_lower)
    if "fp16" in precisions:
        with _alone(stage, folder.openvino("fp16")):
            _fp16(stage)
    if "int8" in precisions:
        with _alone(stage, folder.openvino("int8")):
            _int8(stage)


def _alone(stage: Stage, path: Path, *, execution: str = "") -> contextlib.AbstractContextManager[None]:
    hint = "The other files stay: export without openvino."
    return stage.alone(path, f"making {path.name}", hint, execution=execution)


def _fp32(stage: Stage, *, asked: bool) -> parity.Judged | None:
    """What the file loses in what OpenVINO itself would compute it in. None where that is FP32.

    asked: whether the export is asked for that precision, which then has an outcome.
    """
    judged = None
    source = stage.folder.onnx()
    with _gated_ir(stage.folder.openvino("fp32")) as made:
        _write(source, made, half=False)
        measured = {"made_of": source.name, **stage.check_parity(_runtime(stage, made), "OpenVINO's FP32")}
        lower = own_execution()
        if lower != "f32":
            judged = _executed(stage, made, lower)
            entry: dict[str, Any] = {"agreement": judged.agreement, "drop": judged.drop}
            if asked and judged.outcome != "FAIL":
                entry |= {"outcome": judged.outcome, "images_to_decide": judged.images_to_decide}
            measured["executions"] = {lower: entry}
    _keep(stage, stage.folder.openvino("fp32"), measured)
    return judged


def _executed(stage: Stage, made: Path, execution: Execution) -> parity.Judged:
    """What the FP32 file loses in another precision. It stops an export only where that precision is asked for.

    `compress benchmark` measures it again, and recommends nothing that misses a limit.
    """
    limits = parity.Limits(stage.settings.max_fp16_top1_drop, stage.settings.min_agreement, same_is_enough=True)
    logits = _runtime(stage, made, execution)(stage.data.eval_images)
    return parity.judge(stage.fp32_logits, logits, stage.data.eval_labels, limits)


def _check_bf16(judged: parity.Judged | None) -> None:
    if own_execution() != "bf16":
        raise MachineError("OpenVINO does not compute in bf16 on this CPU", "Leave out --precision bf16.")
    if judged is None:
        raise GateError("bf16 computes the FP32 file for OpenVINO, which was not made", "Leave out --precision bf16")
    parity.check_outcome(judged, "bf16")


def _fp16(stage: Stage) -> None:
    """Weights in FP16. They are computed with in FP32, unless a session is opened otherwise."""
    settings, source = stage.settings, stage.folder.onnx()
    with _gated_ir(stage.folder.openvino("fp16")) as made:
        _write(source, made, half=True)
        accuracy = stage.check_accuracy(
            _runtime(stage, made),
            settings.max_fp16_top1_drop,
            settings.min_agreement,
            "OpenVINO's FP16",
            same_is_enough=True,
        )
    _keep(stage, stage.folder.openvino("fp16"), {"made_of": source.name, **accuracy})


def _int8(stage: Stage) -> None:
    """Of our two INT8 graphs the faster one in OpenVINO, here and at batch 1, that passes; else the best outcome.

    Raises:
        GateError: there is neither, or both fail.
    """
    fp32, settings = stage.folder.onnx(), stage.settings
    graphs = [stage.folder.trt_onnx("int8"), stage.folder.onnx("int8")]
    passed = [path for path in graphs if path.name in stage.record.files]
    if not passed:
        raise GateError("neither of the INT8 graphs passed its gates", "Deploy another precision")
    times = median_times([fp32, *passed], stage.threads)
    found: dict[Path, dict[str, Any]] = {}
    refused = GateError("OpenVINO runs none of the INT8 graphs", "Deploy another precision or runtime")
    with _gated_ir(stage.folder.openvino("int8")) as made:
        for source in (path for path in times if path != fp32):
            _write(source, made, half=False)
            try:
                found[source] = stage.check_accuracy(
                    _runtime(stage, made), settings.max_int8_top1_drop, settings.min_int8_agreement, "OpenVINO's INT8"
                )
            except GateError as error:
                logger.info(f"OpenVINO's INT8 of {source.name}: {error.message}")
                refused = error
                continue
            if found[source]["outcome"] == "PASS":
                break
        if not found:
            raise refused
        source = min(found, key=lambda path: found[path]["outcome"] != "PASS")
        _write(source, made, half=False)
    speedup = round(times[fp32] / times[source], 2) if fp32 in times else None
    if speedup is not None and speedup < 1:
        logger.warning(
            f"openvino/{made.name} runs at {speedup:.2f}x the speed of FP32 at batch 1 here: INT8 does not pay on this "
            "machine for this model"
        )
    measured = {"made_of": source.name, "int8_macs": stage.record.files[source.name].int8_macs, **found[source]}
    _keep(stage, stage.folder.openvino("int8"), {**measured, "speedup_over_fp32": speedup})


def _runtime(stage: Stage, path: Path, execution: Execution = EXECUTION["fp32"]) -> OpenVinoRuntime:
    return OpenVinoRuntime(path, stage.data.mean, stage.data.std, threads=stage.threads, execution=execution)


def _write(source: Path, target: Path, *, half: bool) -> None:
    """An IR with the metadata of the ONNX file below "compress" in its rt_info."""
    proto = load(source)
    store_int8_weights(proto)
    model = core().read_model(proto.SerializeToString(), b"")
    for key, value in sorted(get_metadata(source).items()):
        model.set_rt_info(value, ["compress", key])
    openvino().save_model(model, str(target), compress_to_fp16=half)


@contextlib.contextmanager
def _gated_ir(path: Path) -> Iterator[Path]:
    """A place for both files, which get their names once they passed. Where a gate fails, an earlier export's go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ir.", suffix=".tmp", dir=path.parent) as folder:
        made = Path(folder) / path.name
        try:
            yield made
        except GateError:
            for each in (path, path.with_suffix(".bin")):
                each.unlink(missing_ok=True)
            raise
        os.replace(made.with_suffix(".bin"), path.with_suffix(".bin"))
        os.replace(made, path)


def _keep(stage: Stage, path: Path, measured: dict[str, Any]) -> None:
    stage.keep(path, measured)
    stage.keep(path.with_suffix(".bin"), {})
