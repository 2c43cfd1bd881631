"""Opening an ONNX file in ONNX Runtime: the one place for it, and how many threads it may take.

Nothing here imports torch or onnx: the process that measures memory holds only what a deployer's holds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime as ort
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    NoSuchFile,
)
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as OrtNotImplemented

from compress.system.errors import InputError
from compress.system.platform import usable_cpus


def default_threads() -> int:
    """CPUs this process may really use.

    ONNX Runtime counts the host's cores instead. In a container with a quota its threads then fight for time.
    """
    return usable_cpus()


def session_options(threads: int | None, *, stop_spinning: bool = False) -> dict[str, str]:
    """The options of a session: names of `SessionOptions`, and, with a dot in them, of its config entries.

    Args:
        threads: None takes what this process may use.
        stop_spinning: let the threads sleep after a run. They spin for 30 ms otherwise.
    """
    options = {"intra_op_num_threads": str(threads or default_threads()), "inter_op_num_threads": "1"}
    return options | ({"session.force_spinning_stop": "1"} if stop_spinning else {})


def open_session(
    path: Path,
    threads: int | None = None,
    *,
    optimized_path: Path | None = None,
    disabled_optimizers: Sequence[str] = (),
    stop_spinning: bool = False,
    chosen: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU.

    Args:
        path: the ONNX file.
        threads: of the session; None takes what this process may use.
        optimized_path: also write the graph that ONNX Runtime really runs to this file.
        disabled_optimizers: names of graph optimisers that are left out.
        stop_spinning: as in `session_options`.
        chosen: the `session_options`, where they were made before.

    Raises:
        InputError: the file is missing, damaged, or holds an operator that ONNX Runtime lacks.
    """
    options = ort.SessionOptions()
    for name, value in (chosen or session_options(threads, stop_spinning=stop_spinning)).items():
        if "." in name:
            options.add_session_config_entry(name, value)
        else:
            setattr(options, name, int(value))
    options.log_severity_level = 3
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    try:
        return ort.InferenceSession(
            str(path), options, ["CPUExecutionProvider"], disabled_optimizers=list(disabled_optimizers)
        )
    except (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, NoSuchFile, OrtNotImplemented) as error:
        raise InputError(
            f"ONNX Runtime cannot open {path}: {error}", "Check that the file is whole, or export it again"
        ) from error
