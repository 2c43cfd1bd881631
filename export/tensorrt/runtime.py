"""Running a TensorRT engine on a GPU: torch CUDA tensors in and out, by CUDA graphs.

The engine is checked against its sidecar before it is opened, since to open one is to run its maker's code. Nothing
here was run on a GPU yet: it is written by TensorRT's documentation (the pages are named beside the calls).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.system.errors import InputError, MachineError
from export.onnx import INPUT_NAME, OUTPUT_NAME
from export.runtimes import batches, normalise
from export.tensorrt.library import tensorrt, tensorrt_logger
from export.tensorrt.sidecar import check_engine


class Launch:
    """An engine that is ready to run one batch: its own buffers, and a CUDA graph that reads and writes them.

    Attributes:
        input: float32 [N, C, H, W] on the GPU. Fill it before `replay`.
        output: float32 [N, classes] on the GPU, once the stream has come that far.
    """

    def __init__(self, runner: "EngineRunner", shape: Sequence[int]) -> None:
        self.input = torch.zeros(tuple(shape), device=runner.device)
        self.output = torch.empty(shape[0], runner.classes, device=runner.device)
        context, self._stream = runner.context(shape[0]), runner.stream
        # The first run allocates and compiles, which cannot be captured.
        runner.enqueue(context, self.input, self.output)
        runner.stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=runner.stream):
            runner.enqueue(context, self.input, self.output)

    def replay(self) -> torch.Tensor:
        """Puts one run on the runner's stream and returns `output` at once: no copy, no synchronisation."""
        with torch.cuda.stream(self._stream):  # a graph is replayed on the stream that is current
            self._graph.replay()
        return self.output


class EngineRunner:
    """An opened engine. Call it with float32 [N, C, H, W]; it returns float32 logits [N, classes] on its GPU.

    Args:
        engine_path: the engine, with its sidecar beside it.
        device: the GPU that runs it.

    Raises:
        InputError: engine or sidecar is damaged, or a batch is outside the engine's profile.
        MachineError: there is no GPU or no TensorRT, or another one than the engine was built for.
    """

    def __init__(self, engine_path: Path, *, device: str = "cuda") -> None:
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
            # A version compatible engine brings its own runtime, which is host code. Its hash was checked above.
            runtime.engine_host_code_allowed = self.info.version_compatible
            self.engine = runtime.deserialize_cuda_engine(engine_path.read_bytes())
            if self.engine is None:
                raise MachineError(
                    f"TensorRT cannot open {engine_path.name}, built on {self.info.gpu or 'another machine'}: "
                    f"{tensorrt_logger().last()}",
                    "It was built for another GPU; build it again on this machine",
                )
            # On the default stream TensorRT adds a synchronisation to every launch.
            self.stream = torch.cuda.Stream(self.device)
        self.classes = int(self.engine.get_tensor_shape(OUTPUT_NAME)[-1])
        self._contexts: dict[int, Any] = {}
        self._launches: dict[int, Launch] = {}

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        batch = self._check_batch(inputs.shape[0])
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            self.stream.wait_stream(torch.cuda.default_stream(self.device))
            if batch not in self._launches:
                self._launches[batch] = Launch(self, inputs.shape)
            launch = self._launches[batch]
            launch.input.copy_(inputs)
            output = launch.replay().clone()
        # Also keeps `inputs` alive until the GPU has read it.
        self.stream.synchronize()
        return output

    def launch(self, inputs: torch.Tensor) -> Launch:
        """A launch of its own that holds these inputs, so that only the engine's own time is between two events."""
        self._check_batch(inputs.shape[0])
        with torch.cuda.device(self.device), torch.cuda.stream(self.stream):
            made = Launch(self, inputs.shape)
            made.input.copy_(inputs)
        self.stream.synchronize()
        return made

    def context(self, batch: int) -> Any:
        """The execution context of a batch size: each has its own, so that no shape changes between runs.

        TensorRT for RTX compiles kernels for a shape when it is first seen, in the background, and runs fallbacks until
        then. A graph that is captured meanwhile keeps the fallbacks: so the strategy is eager (TensorRT for RTX,
        "Working with dynamic shapes" and "CUDA graphs").
        """
        if batch not in self._contexts:
            trt = tensorrt()
            if hasattr(self.engine, "create_runtime_config") and hasattr(
                trt, "DynamicShapesKernelSpecializationStrategy"
            ):
                config = self.engine.create_runtime_config()
                eager = trt.DynamicShapesKernelSpecializationStrategy.EAGER
                config.dynamic_shapes_kernel_specialization_strategy = eager
                made = self.engine.create_execution_context(config)
            else:
                made = self.engine.create_execution_context()
            if made is None:
                raise MachineError(
                    f"TensorRT makes no context for batch {batch}: {tensorrt_logger().last()}",
                    "Free memory on the GPU, or use smaller batches",
                )
            made.set_optimization_profile_async(self.profile(batch), self.stream.cuda_stream)
            self.stream.synchronize()
            self._contexts[batch] = made
        return self._contexts[batch]

    def enqueue(self, context: Any, inputs: torch.Tensor, output: torch.Tensor) -> None:
        """Launch on the runner's stream; both tensors are contiguous float32 on its device."""
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

    def profile(self, batch: int) -> int:
        """The profile of that batch alone, else the first, in which all run."""
        for index in range(self.engine.num_optimization_profiles):
            smallest, _, largest = self.engine.get_tensor_profile_shape(INPUT_NAME, index)
            if smallest[0] == largest[0] == batch:
                return index
        return 0

    def _check_batch(self, batch: int) -> int:
        smallest, _, largest = self.info.batches
        if not smallest <= batch <= largest:
            raise InputError(
                f"batch {batch} is outside the engine's profile, {smallest} to {largest}",
                "Build the engine with the batches that you need",
            )
        return batch


class EngineRuntime:
    """An engine behind the images -> logits contract of runtimes.py."""

    def __init__(self, runner: EngineRunner, mean: Sequence[float], std: Sequence[float]) -> None:
        self.runner, self.mean, self.std = runner, mean, std

    def __call__(self, images: np.ndarray) -> np.ndarray:
        size = self.runner.info.batches[2]
        return np.concatenate([self._padded(batch, size) for batch in batches(images, size)])

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """Normalised float32 [N, C, H, W] -> float32 [N, classes], as one batch."""
        return self.runner(torch.from_numpy(inputs).to(self.runner.device)).cpu().numpy()

    def _padded(self, images: np.ndarray, size: int) -> np.ndarray:
        """The last batch may be partial: it is filled up, so that no further graph is captured for its size."""
        inputs = normalise(images, self.mean, self.std)
        filled = np.concatenate([inputs, np.zeros((size - len(inputs), *inputs.shape[1:]), np.float32)])
        return self.run(filled)[: len(inputs)]
