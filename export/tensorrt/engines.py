"""The engines of an export: parse, build, and, where this machine can run them, the same gates as for ONNX."""

import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from compress.recipe import Export
from compress.system.errors import GateError
from export.folder import sidecar
from export.gates import Stage
from export.gates.parity import Limits
from export.records import PRECISIONS, Precision, RunPrecision
from export.tensorrt.build import EngineOptions, build_engine
from export.tensorrt.library import built_for, tensorrt
from export.tensorrt.parser import refusals
from export.tensorrt.runtime import EngineRunner, EngineRuntime


def engine_files(stage: Stage, precisions: Collection[RunPrecision]) -> None:
    """Makes an engine and its sidecar for each precision.

    Raises:
        GateError: TensorRT would refuse an ONNX file, or an engine misses a limit.
        MachineError: there is no TensorRT. The ONNX files for it are linted before.
    """
    wanted: dict[Precision, Path] = {
        precision: stage.folder.trt_onnx(precision) for precision in PRECISIONS if precision in precisions
    }
    for source in wanted.values():
        problems = refusals(source)
        linted = stage.record.files[source.name].model_copy(update={"tensorrt_lint": problems})
        stage.record.files[source.name] = linted
        if problems:
            raise GateError(
                f"TensorRT would refuse {source.name}: {problems[0]}", f"{len(problems)} such nodes, 0 allowed"
            )
    tensorrt()
    for precision, source in wanted.items():
        _engine(stage, precision, source)


def _engine(stage: Stage, precision: Precision, source: Path) -> None:
    path = stage.folder.engine(precision)
    # Engine and sidecar are made together in a folder beside the final name, and moved once they passed.
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=stage.folder.path) as folder:
        made = Path(folder) / path.name
        try:
            record = build_engine(
                source,
                made,
                precision=precision,
                options=EngineOptions.of(stage.settings, stage.engine_batches),
                timing_cache=stage.folder.timing_cache,
            )
            measured = record.dump() | _check_on_gpu(stage, made, precision)
        except GateError:
            path.unlink(missing_ok=True)
            sidecar(path).unlink(missing_ok=True)
            raise
        os.replace(sidecar(made), sidecar(path))
        os.replace(made, path)
    stage.keep(path, measured)


def _check_on_gpu(stage: Stage, engine: Path, precision: Precision) -> dict[str, Any]:
    """Agreement and accuracy of the engine, where this machine has a GPU that it was built for."""
    if not torch.cuda.is_available():
        return {"checked_on_gpu": False}
    if not built_for(stage.settings.compute_capabilities, *torch.cuda.get_device_capability()):
        return {"checked_on_gpu": False}
    runtime = EngineRuntime(EngineRunner(engine), stage.data.mean, stage.data.std)
    limits, what = limits_on_gpu(stage.settings, precision), f"the {precision.upper()} engine"
    measured = stage.check_accuracy(
        runtime, limits.max_drop, limits.min_agreement, what, same_is_enough=limits.same_is_enough
    )
    return {"checked_on_gpu": True, **measured}


def limits_on_gpu(settings: Export, precision: Precision) -> Limits:
    """What an engine may lose against the FP32 file. One in FP32 rounds, too: TensorRT may compute in TF32."""
    if precision == "int8":
        return Limits(settings.max_int8_top1_drop, settings.min_int8_agreement)
    return Limits(settings.max_fp16_top1_drop, settings.min_agreement, same_is_enough=True)
