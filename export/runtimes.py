"""Ways to run a classifier on images. In: uint8 images [N, H, W, 3] as numpy. Out: float32 logits [N, C] as numpy.

One contract for torch modules and ONNX files: every gate and every benchmark compares the same thing.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from onnxruntime import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from torch import nn

from compress.system.errors import InputError, first_line
from export.onnx import INPUT_NAME, OUTPUT_NAME, PIXELS_NAME, open_session, write_emulation

_MEASURED = 32
_MEASURED_PIXELS = _MEASURED * 128 * 128


class Runtime(Protocol):
    """Anything that turns images into logits."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, C]."""
        ...


def normalise(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels as a model takes them: (x / 255 - mean) / std.

    Args:
        images: uint8 [N, H, W, C].
        mean: per channel, in 0..1.
        std: per channel, in 0..1.

    Returns:
        float32 [N, C, H, W], contiguous.
    """
    scaled = images.astype(np.float32) / np.float32(255.0)
    scaled = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The images in order, `size` at a time; the last batch may be smaller."""
    for start in range(0, len(images), size):
        yield images[start : start + size]


def batches_to_measure(images: np.ndarray) -> Iterator[np.ndarray]:
    """The images in order, for passes that keep every tensor of the graph: fewer at a time, the larger they are."""
    return batches(images, max(1, min(_MEASURED, _MEASURED_PIXELS // (images.shape[1] * images.shape[2]))))


class Normalising(ABC):
    """What runs normalised batches, and images by that: a model with the mean and std that it expects."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], batch_size: int) -> None:
        self.mean, self.std, self.batch_size = mean, std, batch_size

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] -> float32 [N, C], some at a time."""
        parts = [self.run(normalise(batch, self.mean, self.std)) for batch in batches(images, self.batch_size)]
        return np.concatenate(parts)

    @abstractmethod
    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""


class OrtRuntime(Normalising):
    """An ONNX file with input "input" (float32 NCHW) and output "logits" on the CPU.

    Args:
        path: the ONNX file.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        threads: None takes what this process may use.
        batch_size: images in one run of the session.
        literal: round what the file says, and nothing else. ONNX Runtime otherwise also quantises biases, and weights
            between quantised activations, and computes FP16 in float32. TensorRT does none of that.
        stop_spinning: as in `session_options`: for what is timed in turns.

    Raises:
        InputError: the file cannot be opened, or does not run on the images.
    """

    def __init__(
        self,
        path: Path,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        threads: int | None = None,
        batch_size: int = 64,
        literal: bool = False,
        stop_spinning: bool = False,
    ) -> None:
        super().__init__(mean, std, batch_size)
        self.path = path
        self.session = (
            _literal_session(path, threads) if literal else open_session(path, threads, stop_spinning=stop_spinning)
        )

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""
        try:
            return np.asarray(self.session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0])
        except (Fail, InvalidArgument, RuntimeException, ValueError) as error:
            reason = first_line(error)
            raise InputError(
                f"{self.path.name} does not run on input {inputs.shape}: {reason}",
                'It must take "input", float32 NCHW, and give "logits"',
            ) from error


def _literal_session(path: Path, threads: int | None) -> InferenceSession:
    with tempfile.TemporaryDirectory() as folder:
        emulation = Path(folder) / path.name
        write_emulation(path, emulation)
        return open_session(emulation, threads, disabled_optimizers=["WeightBiasQuantization"])


class PictureRuntime:
    """An ONNX file of an export on the CPU, from pictures of any size as their files have them.

    Args:
        path: takes "pixels", or "input" behind the preprocessing.
        front: the preprocessing as a file (`export.onnx.export_preprocessing`).
        threads: None takes what this process may use.

    Raises:
        InputError: a file cannot be opened.
    """

    def __init__(self, path: Path, front: Path, *, threads: int | None = None) -> None:
        self.path, self.session = path, open_session(path, threads)
        self.input = self.session.get_inputs()[0].name
        self.front = None if self.input == PIXELS_NAME else open_session(front, threads)

    def __call__(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Pictures, each uint8 [H, W, 3], to float32 [N, C]: logits, or probabilities of a file that takes pixels."""
        return np.concatenate([self._one(picture) for picture in pictures])

    def _one(self, picture: np.ndarray) -> np.ndarray:
        inputs = picture[None]
        try:
            if self.front is not None:
                inputs = np.asarray(self.front.run(None, {PIXELS_NAME: inputs})[0])
            return np.asarray(self.session.run(None, {self.input: inputs})[0])
        except (Fail, InvalidArgument, RuntimeException, ValueError) as error:
            raise InputError(f"{self.path.name} does not run on a picture: {first_line(error)}") from error


class TorchRuntime(Normalising):
    """A torch module in eval mode and float32, on the device that its parameters are on."""

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], *, batch_size: int = 64) -> None:
        super().__init__(mean, std, batch_size)
        self.model = model

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch. Its modules' modes are restored."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            parameter = next(self.model.parameters())
            with torch.inference_mode():
                logits = self.model(torch.from_numpy(inputs).to(parameter.device, parameter.dtype))
            return logits.float().cpu().numpy()
        finally:
            for module, training in modes.items():
                module.training = training
