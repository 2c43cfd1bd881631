"""One architecture of the matrix, through every stage of deployment. architectures.py starts it in its own process.

In: a name of timm. Out: one JSON object on stdout, with a result for each stage, and what failed first.
"""

import contextlib
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn
from zoo import MEAN, STD, ZOO, pictures, random_model

from compress.recipe import Export
from compress.system.errors import GateError, MachineError, first_line
from compress.system.platform import limit_memory
from export.benchmark.latency import Timed, interleave, ratio
from export.gates.parity import Limits, check_finite, check_graph, check_outcome, judge
from export.int8 import Quantizer
from export.int8.macs import counted_ops, int8_mac_fraction
from export.onnx import export_onnx, float_operators, largest_values, to_fp16, write_emulation
from export.records import Precision
from export.runtimes import OrtRuntime, TorchRuntime, normalise
from export.tensorrt.build import EngineOptions, build_engine
from export.tensorrt.parser import parse

PICTURES, CALIBRATION = 64, 32
BATCHES = (1, 2, 7)
MAX_DIFF, MIN_INT8 = 1e-3, 0.9
CAPABILITY = "89"
BUILT: dict[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "trt"}


@dataclass
class Architecture:
    """What the stages hand on. `files`: ONNX files by kind. `expected`: torch's logits [N, C] for `images`."""

    name: str
    size: int
    folder: Path
    images: np.ndarray
    model: nn.Module
    expected: np.ndarray
    files: dict[str, Path] = field(default_factory=dict)

    def file(self, kind: str) -> Path:
        return self.folder / f"{kind}.onnx"

    def keep(self, kind: str) -> np.ndarray:
        """The logits of a file that is whole and gives finite ones; from now on later stages have it."""
        check_graph(self.file(kind))
        logits = self.runtime(kind)(self.images)
        check_finite(logits, kind)
        self.files[kind] = self.file(kind)
        return logits

    def runtime(self, kind: str) -> OrtRuntime:
        return OrtRuntime(self.file(kind), MEAN, STD, threads=1, literal=kind == "trt")

    def signal_to_noise_db(self, logits: np.ndarray) -> float:
        """Of what tells the pictures apart in torch's logits."""
        signal = ((self.expected - self.expected.mean(axis=0)) ** 2).sum()
        return round(float(10 * np.log10(signal / ((logits - self.expected) ** 2).sum())), 1)


def made(name: str, folder: Path) -> Architecture:
    size = ZOO.get(name, 64)
    images = pictures(size, PICTURES)
    model = random_model(name, size, torch.from_numpy(normalise(images[:CALIBRATION], MEAN, STD)))
    return Architecture(name, size, folder, images, model, TorchRuntime(model, MEAN, STD)(images))


def onnx(case: Architecture) -> dict[str, Any]:
    export_onnx(case.model, case.file("fp32"), image_size=case.size, metadata={})
    logits = case.keep("fp32")
    runtime, inputs = case.runtime("fp32"), normalise(case.images, MEAN, STD)
    answers = [logits, *(runtime.run(inputs[:batch]) for batch in BATCHES)]
    errors = [np.abs(answer - case.expected[: len(answer)]).max() for answer in answers]
    diff = float(max(errors) / np.abs(case.expected).max())
    agreement = float((logits.argmax(1) == case.expected.argmax(1)).mean())
    if diff > MAX_DIFF or agreement < 1:
        del case.files["fp32"]
        raise GateError(f"differs from torch by {diff:.2g} of the largest logit, {agreement:.0%} have the same class")
    return {"diff": float(f"{diff:.2g}"), "agreement": agreement}


def fp16(case: Architecture) -> dict[str, Any]:
    """As an export makes and judges it: with every tensor rounded to FP16. The class of torch stands for the label."""
    source, path, limits = case.files["fp32"], case.file("fp16"), Export()
    kept = float_operators(source, largest_values(source, [normalise(case.images[:CALIBRATION], MEAN, STD)], threads=1))
    to_fp16(source, path, keep_float=kept)
    emulation = case.file("fp16.emulation")
    write_emulation(path, emulation)
    logits = OrtRuntime(emulation, MEAN, STD, threads=1)(case.images)
    check_finite(logits, "FP16")
    allowed = Limits(limits.max_fp16_top1_drop, limits.min_agreement, same_is_enough=True)
    check_outcome(judge(case.runtime("fp32")(case.images), logits, case.expected.argmax(1), allowed), "FP16")
    case.keep("fp16")
    return {"snr_db": case.signal_to_noise_db(logits), "float_operators": len(kept)}


def int8(case: Architecture) -> dict[str, Any]:
    quantizer = Quantizer(case.files["fp32"], case.images[:CALIBRATION], MEAN, STD, threads=1)
    found = {}
    for target in ("ort", "trt"):
        path = case.file(target)
        quantizer.write(path, target=target)
        coverage = int8_mac_fraction(path, counted_ops(path))
        found[target] = {
            "coverage": round(coverage, 3),
            "snr_db": case.signal_to_noise_db(case.keep(target)),
        }
        if coverage < MIN_INT8:
            raise GateError(f"{coverage:.1%} of the multiply-adds are INT8 for {target}, {MIN_INT8:.0%} are wanted")
    return found


def rtx(case: Architecture) -> dict[str, Any]:
    options, found = EngineOptions((1, 1, 4), compute_capabilities=(CAPABILITY,)), {}
    for precision, kind in BUILT.items():
        if kind not in case.files:
            continue
        _, _, refused = parse(case.files[kind])
        if refused:
            raise GateError(f"the parser refuses {precision}: {refused[0]}")
        record = build_engine(case.files[kind], case.folder / "engine", precision=precision, options=options)
        found[precision] = {"mb": round(record.engine_bytes / 1e6, 1), "seconds": round(record.build_seconds, 1)}
    return found


def cpu_clock(call: Callable[[int], object], number: int) -> int:
    began = time.thread_time_ns()
    call(number)
    return time.thread_time_ns() - began


def latency(case: Architecture) -> dict[str, Any]:
    """Batch 1, one thread of ONNX Runtime, in turns. CPU time: other work on the machine does not count."""
    image = normalise(case.images[:1], MEAN, STD)
    runtimes = {kind: case.runtime(kind) for kind in ("fp32", "fp16", "ort") if kind in case.files}
    series = interleave(
        [Timed(kind, lambda _, runtime=runtime: runtime.run(image), cpu_clock) for kind, runtime in runtimes.items()],
        min_seconds=0.3,
        min_runs=20,
    )
    found = {"fp32_ms": round(float(np.median(series["fp32"].ns)) / 1e6, 3)}
    for kind, key in (("ort", "int8_over_fp32"), ("fp16", "fp16_over_fp32")):
        if kind in series:
            found[key] = round(ratio(series[kind], series["fp32"]).value, 2)
    return found


STAGES: dict[str, Callable[[Architecture], dict[str, Any]]] = {
    "onnx": onnx, "fp16": fp16, "int8": int8, "rtx": rtx, "latency": latency
}  # fmt: skip


def through_all(name: str, folder: Path) -> dict[str, Any]:
    """A stage that fails leaves the others, but for the export to ONNX, which all others need."""
    row: dict[str, Any] = {"model": name, "size": ZOO.get(name, 64), **dict.fromkeys(STAGES), "failed": None}
    try:
        case = made(name, folder)
    except Exception as error:  # noqa: BLE001
        return {**row, "failed": f"timm: {type(error).__name__}: {first_line(error)}"}
    row["parameters_m"] = round(sum(parameter.numel() for parameter in case.model.parameters()) / 1e6, 1)
    for stage, work in STAGES.items():
        if stage != "onnx" and "fp32" not in case.files:
            break
        try:
            row[stage] = work(case)
        except MachineError as error:
            row[stage] = {"not_run": error.message}
        except Exception as error:  # noqa: BLE001
            row["failed"] = row["failed"] or f"{stage}: {type(error).__name__}: {first_line(error)}"
    return row


@click.command()
@click.argument("name")
@click.option("--memory-gb", default=14.0)
def main(name: str, memory_gb: float) -> None:
    """One row of the matrix, for the architecture NAME."""
    limit_memory(int(memory_gb * 1e9))
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        row = through_all(name, Path(folder))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
