"""A model in OpenVINO as one of the runtimes that gates and benchmarks compare.

In: uint8 images [N, H, W, 3], or pictures of any size. Out: float32 [N, C].
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from export.onnx import PIXELS_NAME
from export.openvino.session import Execution, Session
from export.runtimes import Normalising


class OpenVinoRuntime(Normalising):
    """An ONNX file, or an IR, with input "input" (float32 NCHW) and output "logits" on the CPU.

    Args:
        path: the ONNX file, or the .xml of the IR.
        mean: per channel, in 0..1.
        std: per channel, in 0..1.
        threads: None takes what this process may use.
        execution: what the graph has in float is computed in it.
        batch_size: images in one run of the session.

    Raises:
        MachineError: OpenVINO is not installed.
        InputError: the file cannot be opened, or does not run on the images.
    """

    def __init__(
        self,
        path: Path,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        threads: int | None = None,
        execution: Execution = "f32",
        batch_size: int = 64,
    ) -> None:
        super().__init__(mean, std, batch_size)
        self.session = Session(path, threads, execution=execution)

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""
        return self.session.run(inputs)


class OpenVinoPictures:
    """A model of a bundle in OpenVINO, from pictures of any size as their files have them.

    Args:
        path: takes "pixels", or "input" behind the preprocessing.
        front: the preprocessing as a file (`export.onnx.export_preprocessing`).
        threads: None takes what this process may use.
        execution: what the graph has in float is computed in it. The preprocessing is always in f32.

    Raises:
        MachineError: OpenVINO is not installed.
        InputError: a file cannot be opened.
    """

    def __init__(self, path: Path, front: Path, *, threads: int | None = None, execution: Execution = "f32") -> None:
        self.session = Session(path, threads, execution=execution)
        # Its pictures have all sorts of sizes.
        self.front = None if self.session.input == PIXELS_NAME else Session(front, threads, fixed=False)

    def __call__(self, pictures: Iterable[np.ndarray]) -> np.ndarray:
        """Pictures, each uint8 [H, W, 3], to float32 [N, C]: logits, or probabilities of a file that takes pixels."""
        return np.concatenate([self._one(picture) for picture in pictures])

    def _one(self, picture: np.ndarray) -> np.ndarray:
        inputs = picture[None]
        return self.session.run(inputs if self.front is None else self.front.run(inputs))
