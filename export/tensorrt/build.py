"""TensorRT engines from ONNX files, by `tensorrt` or TensorRT for RTX (`tensorrt_rtx_bindings`), which share one API.

In: an ONNX file whose tensor types are its precision. Out: an engine, and beside it ENGINE.json, which says what it
is.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch

from compress.recipe import Export
from compress.system.console import phases
from compress.system.errors import GateError, InputError, MachineError, UsageError
from compress.system.files import replacing, sha256_file
from export.folder import sidecar
from export.int8 import WEIGHTED, float32_layers, layer_macs
from export.records import EngineRecord, Precision
from export.tensorrt.library import (
    capabilities,
    check_version_compatible,
    driver_version,
    tensorrt,
    tensorrt_logger,
)
from export.tensorrt.parser import parse


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built.

    batches: the smallest, the best and the largest batch that it must run. tuned: others, each of which gets a profile
    of its own, too. workspace_mb: memory that the builder may
    use. compute_capabilities: such as "89" for SM89; TensorRT for RTX then needs no GPU. Empty: the library's default,
    or the GPU that is here.
    """

    batches: tuple[int, int, int]
    workspace_mb: int = 1024
    version_compatible: bool = False
    hardware_compatible: bool = False
    compute_capabilities: Sequence[str] = ()
    tuned: Sequence[int] = ()

    @classmethod
    def of(cls, settings: Export, tuned: Sequence[int] = ()) -> Self:
        """What the recipe says. Each batch of `tuned` is within the range."""
        smallest, best, largest = settings.batches
        return cls(
            (min(smallest, *tuned), best, max(largest, *tuned)) if tuned else (smallest, best, largest),
            settings.workspace_mb,
            settings.version_compatible,
            settings.hardware_compatible,
            settings.compute_capabilities,
            tuned,
        )

    @property
    def profiles(self) -> list[tuple[int, int, int]]:
        """(smallest, best, largest) of each profile. Any batch runs in the first.

        Each batch that is named has one of its own besides, for which kernels are chosen.
        """
        return [self.batches, *((batch, batch, batch) for batch in sorted({*self.batches, *self.tuned}))]


def build_engine(
    onnx_path: Path,
    engine_path: Path,
    *,
    precision: Precision,
    options: EngineOptions,
    timing_cache: Path | None = None,
) -> EngineRecord:
    """Builds an engine and its sidecar. Neither appears before both are whole.

    Args:
        onnx_path: the file to build from.
        engine_path: the file to write; the sidecar goes beside it.
        precision: what the network must be.
        options: for which batches and GPUs.
        timing_cache: a file that keeps what TensorRT has timed, for the next build.

    Returns:
        What the sidecar holds.

    Raises:
        InputError: the parser refuses the file.
        GateError: the network's precision is not `precision`.
        MachineError: library or GPU are missing, or the build fails.
        UsageError: the library lacks one of the options.
    """
    trt, logger = tensorrt(), tensorrt_logger()
    logger.errors.clear()
    started = time.monotonic()
    builder, network, refused = parse(onnx_path)
    if refused:
        raise InputError(
            f"TensorRT cannot parse {onnx_path.name}: {'; '.join(refused[:3])}",
            "Use the files named .trt.onnx or the float ones; student.int8.onnx is for ONNX Runtime",
        )
    layers = network_layers(trt, network)
    _check_precision(layers, precision, onnx_path)
    config = _configure(trt, builder, network, options)
    if options.version_compatible:
        check_version_compatible()
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if trt.__name__.startswith("tensorrt_rtx"):  # has no timing cache, and warns of its use
        timing_cache = None
    if timing_cache is not None:
        _use_timing_cache(config, timing_cache)
    with phases() as show:
        config.progress_monitor = monitor = _monitor(trt, show)
        engine = builder.build_serialized_network(network, config)
    if monitor.stopped_by is not None:
        raise monitor.stopped_by
    if engine is None:
        raise MachineError(
            f"TensorRT could not build {engine_path.name}: {logger.last()}",
            f"Raise export.workspace_mb{_options_set(options)}",
        )
    with replacing(engine_path) as temporary:
        temporary.write_bytes(engine)
        record = EngineRecord(
            library=trt.__name__,
            version=trt.__version__,
            precision=precision,
            layers=layers,
            batches=options.batches,
            compute_capabilities=tuple(options.compute_capabilities),
            version_compatible=options.version_compatible,
            hardware_compatible=options.hardware_compatible,
            onnx_sha256=sha256_file(onnx_path),
            engine_sha256=sha256_file(temporary),
            engine_bytes=temporary.stat().st_size,
            build_seconds=round(time.monotonic() - started, 3),
            tf32=bool(config.get_flag(trt.BuilderFlag.TF32)),
            gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            driver=driver_version(),
        )
        record.write(sidecar(engine_path))
    if timing_cache is not None:
        with replacing(timing_cache) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
    return record


_SAME_VALUES = ("SHUFFLE", "SQUEEZE", "UNSQUEEZE")
"""Layers that the parser puts before a product whose data has another number of axes, as a 1-D convolution's."""


def _options_set(options: EngineOptions) -> str:
    """The settings to leave out where a build fails."""
    names = [name for name in ("version_compatible", "hardware_compatible") if getattr(options, name)]
    return f", or leave out {' and '.join(f'export.{name}' for name in names)}" if names else ""


def network_layers(trt: ModuleType, network: Any) -> dict[str, int]:
    """How many convolutions and matrix products the parsed network does in each precision.

    A layer is INT8 when its data comes from a DequantizeLinear, which the builder then fuses into it. Otherwise its
    precision is that of its output, as in every strongly typed network.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {layer.get_output(i).name: layer for layer in layers for i in range(layer.num_outputs)}
    names = {trt.float32: "fp32", trt.float16: "fp16"}
    counts = {"fp32": 0, "fp16": 0, "int8": 0}
    for layer in layers:
        if layer.type not in (trt.LayerType.CONVOLUTION, trt.LayerType.MATRIX_MULTIPLY):
            continue
        source = producers.get(layer.get_input(0).name)
        while source is not None and source.type.name in _SAME_VALUES:
            source = producers.get(source.get_input(0).name)
        dequantised = source is not None and source.type == trt.LayerType.DEQUANTIZE
        kind = "int8" if dequantised else names.get(layer.get_output(0).dtype, str(layer.get_output(0).dtype))
        counts[kind] = counts.get(kind, 0) + 1
    return counts


def _check_precision(layers: dict[str, int], precision: Precision, onnx_path: Path) -> None:
    """FP32 and FP16 must be pure. INT8 is with FP16: every layer must have arrived as what it is in the file."""
    if precision == "int8":
        wanted = sum(int8 for _, int8 in layer_macs(onnx_path, WEIGHTED).values())
        good = layers["int8"] >= wanted > 0 and layers["fp32"] <= len(float32_layers(onnx_path))
    else:
        good = layers[precision] == sum(layers.values()) > 0
    if not good:
        found = ", ".join(f"{count} {kind}" for kind, count in layers.items() if count)
        raise GateError(
            f"the parsed network has {found or 'no'} weighted layers, {precision} was asked",
            "Build from the ONNX file of that precision",
        )


def _configure(trt: ModuleType, builder: Any, network: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    smallest, best, largest = options.batches
    if not 1 <= smallest <= best <= largest:
        raise UsageError(
            f"the batches {options.batches} are not in order", "Give smallest, best and largest, from 1 up"
        )
    name, shape = network.get_input(0).name, tuple(network.get_input(0).shape)[1:]
    for low, middle, high in options.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(name, (low, *shape), (middle, *shape), (high, *shape))
        if config.add_optimization_profile(profile) < 0:
            raise InputError(
                f"TensorRT refuses the batches {options.batches}: {tensorrt_logger().last()}",
                "The model's batch is not dynamic",
            )
    wanted = capabilities(options.compute_capabilities)
    if wanted:
        config.num_compute_capabilities = len(wanted)
        for index, capability in enumerate(wanted):
            config.set_compute_capability(capability, index)
    return config


def _use_timing_cache(config: Any, path: Path) -> None:
    """A cache of another version or device is refused: it is said, and the build fills a new one."""
    known = path.read_bytes() if path.exists() else b""
    kept = config.create_timing_cache(known)
    if kept is not None and config.set_timing_cache(kept, False):
        return
    logging.getLogger(__name__).warning(f"{path} is of another TensorRT or GPU: it is filled anew")
    config.set_timing_cache(config.create_timing_cache(b""), False)


def _monitor(trt: ModuleType, show: Callable[[str, int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.stopped_by: BaseException | None = None

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            # An exception (Ctrl-C arrives as one) must not cross TensorRT's frames: it is raised after the build.
            try:
                show(phase_name, step + 1, self.steps[phase_name])
            except BaseException as error:  # noqa: BLE001
                self.stopped_by = error
            return self.stopped_by is None

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
