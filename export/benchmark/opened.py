"""Candidates that are ready to be timed: each in its runtime, with its own clock.

In: a Candidate. Out: an Opened, whose steps from pixels to logits can be timed one by one.
"""

from typing import Any, Protocol

import numpy as np
import torch

from export.benchmark.candidates import Candidate
from export.benchmark.latency import Clock, cuda_clock, host_clock
from export.onnx import INPUT_NAME, OUTPUT_NAME, open_session
from export.openvino import Session
from export.runtimes import normalise


class Opened(Protocol):
    """A ready candidate. `run` takes what `prepare` made of uint8 pixels [B, H, W, 3]. `fetch` brings logits home."""

    clock: Clock

    def prepare(self, pixels: np.ndarray) -> Any: ...

    def run(self, prepared: Any) -> Any: ...

    def fetch(self, logits: Any) -> np.ndarray: ...


def open_candidate(candidate: Candidate, threads: int) -> Opened:
    """Loads it, ready to be timed. Raises InputError or MachineError where it cannot be opened here."""
    if candidate.module is not None:
        return _Torch(candidate)
    if candidate.runtime == "openvino":
        return _OpenVino(candidate, threads)
    return _Engine(candidate) if candidate.engine else _Ort(candidate, threads)


class _Torch:
    """A module in torch eager, float32, on the CPU."""

    def __init__(self, candidate: Candidate) -> None:
        assert candidate.module is not None
        self.candidate, self.module = candidate, candidate.module.eval()
        self.clock: Clock = host_clock

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.candidate.mean, self.candidate.std))

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.module(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.numpy()


class _Ort:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        self.candidate = candidate
        self.clock: Clock = host_clock
        # Spinning threads would take the cores that the next candidate needs.
        self.session = open_session(candidate.path, threads, stop_spinning=True)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return normalise(pixels, self.candidate.mean, self.candidate.std)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: prepared})[0])

    def fetch(self, logits: np.ndarray) -> np.ndarray:
        return logits


class _OpenVino:
    """An ONNX file or an IR in OpenVINO on the CPU."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        self.candidate = candidate
        self.clock: Clock = host_clock
        self.session = Session(candidate.path, threads, execution=candidate.execution)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return normalise(pixels, self.candidate.mean, self.candidate.std)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return self.session.run(prepared)

    def fetch(self, logits: np.ndarray) -> np.ndarray:
        return logits


class _Engine:
    """A TensorRT engine behind a CUDA graph; the model alone is timed by CUDA events. Not run on a GPU yet."""

    def __init__(self, candidate: Candidate) -> None:
        from export.tensorrt import EngineRunner

        self.candidate, self.runner = candidate, EngineRunner(candidate.path)
        self.clock: Clock = cuda_clock(self.runner.stream)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(normalise(pixels, self.candidate.mean, self.candidate.std)).to(self.runner.device)

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        return self.runner(prepared)

    def fetch(self, logits: torch.Tensor) -> np.ndarray:
        return logits.cpu().numpy()
