"""Opening a model in OpenVINO: the one place for it, with threads, streams and precision said explicitly.

In: an ONNX file or an IR. Out: a Session. Nothing here imports torch or onnx: the process that measures memory holds
only what a deployer's holds.
"""

import functools
import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np

from compress.system.errors import InputError, MachineError, first_line, install_extra
from compress.system.platform import usable_cpus

logger = logging.getLogger(__name__)

Execution = Literal["f32", "bf16", "f16"]
"""The precision in which OpenVINO computes what the graph has in float. It is the machine's, not the file's."""
_MISSING = "OpenVINO is not installed"
EXECUTION: dict[str, Execution] = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
"""OpenVINO's name by ours."""


@functools.cache
def openvino() -> ModuleType:
    """The library. Raises MachineError where it is not installed, or is and cannot be imported."""
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name == "openvino":
            raise MachineError(_MISSING, install_extra("openvino")) from None
        raise _broken(error) from error
    except Exception as error:  # one that is damaged may raise anything
        raise _broken(error) from error


def _broken(error: Exception) -> MachineError:
    reason = f"{type(error).__name__}: {first_line(error)}"
    return MachineError(f"OpenVINO is installed, but cannot be imported ({reason})", "Reinstall it, or go without it.")


@functools.cache
def core() -> Any:
    """The one Core of this process, since OpenVINO breaks signals where two end in the order in which they began.

    Each puts a signal stack of its own in place, and puts back the one that it found, which may be freed by then: the
    next Ctrl-C kills the process (2026.4.1, `SigAltStackSetup` of its CPU plugin).
    """
    return openvino().Core()


def unusable() -> str:
    """Why the library cannot be used here. Empty where it can be."""
    try:
        openvino()
    except MachineError as error:
        return error.message
    return ""


def installed() -> bool:
    """Whether the library can be used: who did not ask for it goes on without it. One that is broken is said."""
    if (why := unusable()) and why != _MISSING:
        _warn_once(why)
    return not why


@functools.cache
def _warn_once(why: str) -> None:
    logger.warning(f"{why}: it is left out")


@functools.cache
def own_execution() -> Execution:
    """What OpenVINO computes in on this CPU where nobody says otherwise: bf16 where the CPU has it, f16 on some ARM."""
    chosen = core().get_property("CPU", "INFERENCE_PRECISION_HINT").to_string()
    names: dict[str, Execution] = {"bf16": "bf16", "f16": "f16"}
    return names.get(chosen, "f32")


def session_options(threads: int | None, execution: Execution) -> dict[str, str]:
    """The properties with which a model is compiled: one stream, which has all threads, as one request at a time wants.

    Args:
        threads: None takes what this process may use.
        execution: OpenVINO's own default would be bf16 where the CPU has it.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads or usable_cpus()),
        "INFERENCE_PRECISION_HINT": execution,
    }


class Session:
    """A model on the CPU. It is compiled anew for each shape of its input: fixed shapes run up to a fifth faster.

    Args:
        path: an ONNX file, or the .xml of an IR whose .bin lies beside it.
        threads: None takes what this process may use.
        execution: what the graph has in float is computed in it.
        fixed: whether each shape gets its own compiled model. Otherwise one takes any shape.

    Raises:
        MachineError: OpenVINO is not installed.
        InputError: the file is missing, damaged, or holds an operator that OpenVINO lacks.
    """

    def __init__(
        self, path: Path, threads: int | None = None, *, execution: Execution = "f32", fixed: bool = True
    ) -> None:
        self.path, self.options, self.fixed = path, session_options(threads, execution), fixed
        self._model = self._opened(lambda: core().read_model(str(path)))
        self.input: str = self._model.inputs[0].get_any_name()
        self._requests: dict[tuple[int, ...], Any] = {}
        if not fixed:
            self._requests[()] = self._compiled(self._model)

    @property
    def input_shape(self) -> list[int]:
        """-1 where a size is not fixed."""
        return [-1 if size.is_dynamic else size.get_length() for size in self._model.inputs[0].partial_shape]

    def run(self, inputs: np.ndarray) -> np.ndarray:
        """The first output of one batch, as an array of its own.

        Raises:
            InputError: the model does not run on it.
        """
        request = self._requests.get(inputs.shape if self.fixed else ())
        try:
            if request is None:
                request = self._requests[inputs.shape] = self._fixed(inputs.shape)
            return request.infer([inputs])[0]
        except RuntimeError as error:
            raise InputError(
                f"{self.path.name} does not run in OpenVINO on input {inputs.shape}: {_reason(error)}"
            ) from error

    def _fixed(self, shape: tuple[int, ...]) -> Any:
        taken = self._model.inputs[0].partial_shape
        if not taken.compatible(openvino().PartialShape(list(shape))):
            raise RuntimeError(f"it takes {taken}")
        model = self._model.clone()
        model.reshape(list(shape))
        return self._compiled(model)

    def _compiled(self, model: Any) -> Any:
        return self._opened(lambda: core().compile_model(model, "CPU", self.options)).create_infer_request()

    def _opened(self, step: Any) -> Any:
        try:
            return step()
        except RuntimeError as error:
            raise InputError(
                f"OpenVINO cannot open {self.path}: {_reason(error)}",
                "Check that the file is whole, or export it again",
            ) from error


def _reason(error: RuntimeError) -> str:
    """OpenVINO's first lines say where in its sources; the last one says what."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)
