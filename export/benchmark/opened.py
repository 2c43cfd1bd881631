"""Candidates that are ready to be timed: each in its runtime, with its own clock.

In: a Candidate. Out: an Opened, whose model can be timed alone, or from pixels to logits.
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import nn

from export.benchmark.candidates import Candidate
from export.benchmark.latency import Clock, cuda_clock, host_clock
from export.onnx import INPUT_NAME, OUTPUT_NAME, open_session
from export.openvino import Session
from export.runtimes import normalise


class Opened(ABC):
    """A ready candidate, on the CPU unless a subclass says otherwise."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.clock: Clock = host_clock

    def prepare(self, pixels: np.ndarray) -> Any:
        """What `run` takes, from uint8 pixels [B, H, W, 3]. It is not timed with the model alone."""
        return normalise(pixels, self.candidate.mean, self.candidate.std)

    @abstractmethod
    def run(self, prepared: Any) -> Any:
        """The model alone. `clock` knows when it is done."""

    def answer(self, pixels: np.ndarray) -> np.ndarray:
        """float32 logits [B, C] of uint8 pixels [B, H, W, 3], on the host."""
        return np.asarray(self.run(self.prepare(pixels)))


def open_candidate(candidate: Candidate, threads: int) -> Opened:
    """Loads it, ready to be timed. Raises InputError or MachineError where it cannot be opened here."""
    if candidate.module is not None:
        return (_TorchOnGpu if candidate.on_gpu else _Torch)(candidate, candidate.module)
    if candidate.runtime == "openvino":
        return _OpenVino(candidate, threads)
    return _Engine(candidate) if candidate.engine else _Ort(candidate, threads)


class _Torch(Opened):
    """A module in torch eager, float32."""

    def __init__(self, candidate: Candidate, module: nn.Module) -> None:
        super().__init__(candidate)
        self.module = module.eval()

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(super().prepare(pixels))

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return self.module(prepared)


class _TorchOnGpu(Opened):
    """A module in torch eager on a GPU: float32, channels last, on a stream of its own between CUDA events.

    Its time holds the gaps in which the GPU waits for launches, as in use. Not run on a GPU yet: it is written by the
    documentation (torch.cuda.Event, "CUDA semantics", "Channels Last Memory Format").
    """

    def __init__(self, candidate: Candidate, module: nn.Module) -> None:
        super().__init__(candidate)
        self.module, self.stream = module.eval(), torch.cuda.Stream()
        self.clock = cuda_clock(self.stream)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        inputs = torch.from_numpy(super().prepare(pixels)).to("cuda", memory_format=torch.channels_last)
        torch.cuda.synchronize()  # it was copied on another stream than the one that reads it
        return inputs

    def run(self, prepared: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            return self.module(prepared)

    def answer(self, pixels: np.ndarray) -> np.ndarray:
        logits = self.run(self.prepare(pixels))
        self.stream.synchronize()
        return logits.cpu().numpy()


class _Ort(Opened):
    """An ONNX file in ONNX Runtime."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        super().__init__(candidate)
        self.session = open_session(candidate.path, chosen=candidate.options(threads))

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: prepared})[0])


class _OpenVino(Opened):
    """An ONNX file or an IR in OpenVINO."""

    def __init__(self, candidate: Candidate, threads: int) -> None:
        super().__init__(candidate)
        self.session = Session(candidate.path, threads, execution=candidate.execution)

    def run(self, prepared: np.ndarray) -> np.ndarray:
        return self.session.run(prepared)


class _Engine(Opened):
    """A TensorRT engine on a GPU: CUDA events around the replay of a graph. Not run on a GPU yet.

    Each prepared batch has a graph with buffers of its own, so that nothing is copied or waited for between the events.
    """

    def __init__(self, candidate: Candidate) -> None:
        from export.tensorrt import EngineRunner

        super().__init__(candidate)
        self.runner = EngineRunner(candidate.path)
        self.clock = cuda_clock(self.runner.stream)

    def prepare(self, pixels: np.ndarray) -> Any:
        return self.runner.launch(torch.from_numpy(super().prepare(pixels)))

    def run(self, prepared: Any) -> torch.Tensor:
        return prepared.replay()

    def answer(self, pixels: np.ndarray) -> np.ndarray:
        return self.runner(torch.from_numpy(super().prepare(pixels))).cpu().numpy()
