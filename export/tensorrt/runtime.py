"""Running a TensorRT engine on a GPU: torch CUDA tensors in and out, one CUDA graph for each batch size that is asked.

The engine is checked against its sidecar before it is opened, since to open one is to run its maker's code.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.system.errors import InputError, MachineError
from export.onnx import INPUT_NAME, OUTPUT_NAME
from export.runtimes import batches, normalise
from export.tensorrt.build import tensorrt, tensorrt_logger
from export.tensorrt.sidecar import check_engine


class EngineRunner:
    """An opened engine. Call it with float32 [N, C, H, W] on its device; it returns float32 logits [N, classes].

    Args:
        engine_path: the engine, with its sidecar beside it.
        device: the GPU that runs it.
        cuda_graphs: replay one CUDA graph for each batch size.

    Raises:
        InputError: engine or sidecar is damaged, or a batch is outside the engine's profile.
        MachineError: there is no GPU or no TensorRT, or another one than the engine was built for.
    """

    def __init__(self, engine_path: Path, *, device: str = "cuda", cuda_graphs: bool = True) -> None:
        self.info = check_engine(engine_path)
        trt = tensorrt()
        if self.info.library != trt.__name__ or (
            self.info.version != trt.__version__ and not self.info.version_compatible
        ):
            raise MachineError(
                f"{engine_path.name} was built by {self.info.library} {self.info.version}, "
                f"here is {trt.__name__} {trt.__version__}",
                "Build the engine on this machine: compress export --format trt",
            )
        if not torch.cuda.is_available():
            raise MachineError("there is no CUDA device to run an engine on", "Engines run on NVIDIA GPUs only")
        self.device = torch.device(device)
        with torch.cuda.device(self.device):
            runtime = trt.Runtime(tensorrt_logger())
            self.engine = runtime.deserialize_cuda_engine(engine_path.read_bytes())
            if self.engine is None:
                raise MachineError(
                    f"TensorRT cannot open {engine_path.name}: {tensorrt_logger().last()}",
                    "It was built for another GPU; build it again on this machine",
                )
            self.context: Any = self.engine.create_execution_context()
            # On the default stream TensorRT adds a synchronisation to every launch.
            self.stream = torch.cuda.Stream(self.device)
        self.classes = int(self.engine.get_tensor_shape(OUTPUT_NAME)[-1])
        self.cuda_graphs = cuda_graphs
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        batch = self._check_batch(inputs.shape[0])
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            self.stream.wait_stream(torch.cuda.default_stream(self.device))
            if self.cuda_graphs:
                graph, static_input, static_output = self._graph(batch, inputs)
                static_input.copy_(inputs)
                graph.replay()
                output = static_output.clone()
            else:
                inputs = inputs.to(self.device, torch.float32).contiguous()
                output = torch.empty(batch, self.classes, device=self.device)
                self._execute(inputs, output)
        # Also keeps `inputs` alive until the GPU has read it.
        self.stream.synchronize()
        return output

    def _check_batch(self, batch: int) -> int:
        smallest, _, largest = self.info.batches
        if not smallest <= batch <= largest:
            raise InputError(
                f"batch {batch} is outside the engine's profile, {smallest} to {largest}",
                "Build the engine with the batches that you need",
            )
        return batch

    def _graph(self, batch: int, like: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        if batch not in self._graphs:
            static_input = torch.zeros(like.shape, device=self.device)
            static_output = torch.empty(batch, self.classes, device=self.device)
            # The first run allocates and compiles, which cannot be captured.
            self._execute(static_input, static_output)
            self.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self._execute(static_input, static_output)
            self._graphs[batch] = graph, static_input, static_output
        return self._graphs[batch]

    def _execute(self, inputs: torch.Tensor, output: torch.Tensor) -> None:
        """Launch on the runner's stream; both tensors are contiguous float32 on its device."""
        context = self.context
        ready = (
            context.set_input_shape(INPUT_NAME, tuple(inputs.shape))
            and not context.infer_shapes()
            and context.set_tensor_address(INPUT_NAME, inputs.data_ptr())
            and context.set_tensor_address(OUTPUT_NAME, output.data_ptr())
            and context.execute_async_v3(self.stream.cuda_stream)
        )
        if not ready:
            raise MachineError(
                f"TensorRT could not run the engine: {tensorrt_logger().last()}", "Build it again on this machine"
            )


class EngineRuntime:
    """An engine behind the images -> logits contract of runtimes.py."""

    def __init__(self, runner: EngineRunner, mean: Sequence[float], std: Sequence[float]) -> None:
        self.runner, self.mean, self.std = runner, mean, std

    def __call__(self, images: np.ndarray) -> np.ndarray:
        size = self.runner.info.batches[2]
        return np.concatenate([self.run(normalise(batch, self.mean, self.std)) for batch in batches(images, size)])

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""
        return self.runner(torch.from_numpy(inputs).to(self.runner.device)).cpu().numpy()
