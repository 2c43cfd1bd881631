"""How large the tensors of a graph become, and what its inputs are on average: both over many images, in one pass.

In: an ONNX file and normalised images, batch by batch. Out: numbers by tensor. Memory does not grow with the images.
"""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.onnx.file import INPUT_NAME, load, save
from export.onnx.session import open_session


def largest_values(path: Path, inputs: Iterable[np.ndarray], threads: int | None = None) -> dict[str, float]:
    """The largest magnitude of every float32 tensor that a node gives out, and of the input.

    Args:
        path: a float32 ONNX file.
        inputs: normalised images, float32 [N, C, H, W], batch by batch.
        threads: of ONNX Runtime; None takes what this process may use.

    Raises:
        InputError: ONNX Runtime cannot open the file.
    """
    graph = onnx.shape_inference.infer_shapes(load(path)).graph
    infos = (*graph.value_info, *graph.output, *graph.input)
    made = {output for node in graph.node for output in node.output} | {INPUT_NAME}
    names = [info.name for info in infos if info.type.tensor_type.elem_type == TensorProto.FLOAT and info.name in made]
    reduced = measured(path, {name: _largest(name) for name in names}, inputs, np.maximum, threads)
    return {name: float(value) for name, value in reduced.items()}


Reduction = Callable[[str], Sequence[onnx.NodeProto]]
"""From the name of an output to the nodes that compute it."""


def _largest(name: str) -> Reduction:
    def nodes(output: str) -> list[onnx.NodeProto]:
        magnitude = f"{output}/magnitude"
        return [
            helper.make_node("Abs", [name], [magnitude]),
            helper.make_node("ReduceMax", [magnitude], [output], keepdims=0),
        ]

    return nodes


def measured(
    path: Path,
    reductions: Mapping[str, Reduction],
    inputs: Iterable[np.ndarray],
    combine: Callable[[np.ndarray, np.ndarray], np.ndarray],
    threads: int | None = None,
    constants: Iterable[onnx.TensorProto] = (),
) -> dict[str, np.ndarray]:
    """Numbers or arrays that follow from the tensors of a graph, over all images.

    Args:
        path: an ONNX file.
        reductions: how each is computed from the tensors of the graph, by a name of the caller's.
        inputs: normalised images, float32 [N, C, H, W], batch by batch.
        combine: makes one of the results of two batches.
        threads: of ONNX Runtime; None takes what this process may use.
        constants: initialisers that the reductions use.

    Returns:
        The results by name.
    """
    model = load(path)
    graph = model.graph
    graph.initializer.extend(constants)
    del graph.output[:]
    for number, nodes in enumerate(reductions.values()):
        output = f"measured/{number}"
        graph.node.extend(nodes(output))
        graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    results: list[np.ndarray] = []
    with tempfile.TemporaryDirectory() as folder:
        augmented = Path(folder) / "augmented.onnx"
        save(model, augmented)
        session = open_session(augmented, threads)
        for batch in inputs:
            found = [np.asarray(value) for value in session.run(None, {INPUT_NAME: batch})]
            results = [combine(one, two) for one, two in zip(results, found, strict=True)] if results else found
    return dict(zip(reductions, results, strict=True))
