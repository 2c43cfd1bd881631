"""The engines of an export: lint, build, and, where this machine can run them, the same gates as for ONNX."""

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compress.system.errors import GateError
from export.gates.stage import Stage
from export.tensorrt.build import Precision, build_engine, tensorrt
from export.tensorrt.lint import lint_for_tensorrt
from export.tensorrt.runtime import EngineRunner, EngineRuntime
from export.tensorrt.sidecar import sidecar


def engine_files(stage: Stage, precisions: Collection[Precision], progress: Callable[[str, int, int], None]) -> None:
    """An engine and its sidecar for each precision. MachineError without TensorRT, once its ONNX files are linted."""
    sources: dict[Precision, str] = {"fp32": ".onnx", "fp16": ".fp16.onnx", "int8": ".int8.trt.onnx"}
    wanted: dict[Precision, Path] = {
        precision: stage.path(suffix) for precision, suffix in sources.items() if precision in precisions
    }
    for source in wanted.values():
        problems = lint_for_tensorrt(source)
        stage.record["files"][source.name]["tensorrt_lint"] = problems
        if problems:
            raise GateError(
                f"TensorRT would refuse {source.name}: {problems[0]}", f"{len(problems)} such nodes, 0 allowed"
            )
    tensorrt()
    for precision, source in wanted.items():
        _engine(stage, precision, source, progress)


def _engine(stage: Stage, precision: Precision, source: Path, progress: Callable[[str, int, int], None]) -> None:
    settings = stage.settings
    path = stage.path(".engine" if precision == "fp32" else f".{precision}.engine")
    # A folder beside the final name: engine and sidecar are made there together, and moved once they passed.
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=stage.out_dir) as folder:
        made = Path(folder) / path.name
        try:
            info = build_engine(
                source,
                made,
                precision=precision,
                batches=(settings.batches[0], settings.batches[1], settings.batches[2]),
                workspace_mb=settings.workspace_mb,
                timing_cache=stage.out_dir / "timing.cache",
                version_compatible=settings.version_compatible,
                hardware_compatible=settings.hardware_compatible,
                compute_capabilities=settings.compute_capabilities,
                progress=progress,
            )
            measured = asdict(info) | _check_on_gpu(stage, made, precision)
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
    major, minor = torch.cuda.get_device_capability()
    built_for = [capability.upper().removeprefix("SM") for capability in stage.settings.compute_capabilities]
    if built_for and f"{major}{minor}" not in built_for:
        return {"checked_on_gpu": False}
    runtime = EngineRuntime(EngineRunner(engine), stage.data.mean, stage.data.std)
    settings = stage.settings
    limits = {"fp32": (0.0, settings.min_agreement), "fp16": (settings.max_fp16_top1_drop, settings.min_agreement)}
    max_drop, min_agreement = limits.get(precision, (settings.max_int8_top1_drop, 0.0))
    what = f"the {precision.upper()} engine"
    return {"checked_on_gpu": True, **stage.check_accuracy(runtime, max_drop, min_agreement, what)}
