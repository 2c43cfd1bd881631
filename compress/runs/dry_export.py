"""Whether a student can be exported, before hours are spent on its training.

In: the student. Out: nothing, or a warning, since a student may stay in torch.
"""

import copy
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.recipe import Student
from compress.runs.kept import keep, model_facts, recalled
from compress.system.errors import first_line
from compress.system.versions import version

logger = logging.getLogger(__name__)

_one_at_a_time = threading.Lock()  # torch.export keeps its state in globals
_IMAGES = 2


def warn_if_not_exportable(student: nn.Module, image_size: int, entry: Student | None) -> None:
    """Traces a copy of the student as its export does, and warns where that fails.

    It takes a second or two, some more on a slow CPU. That a model of timm can be exported is kept in the cache.

    Args:
        image_size: pixels a side.
        entry: the recipe's, by which it was made. None for a module that was handed over: that is also translated,
            which takes ten seconds more, since ONNX has all operators of timm's models, and a module may use others.
    """
    if entry is None:
        error = _export_error(student, image_size, to_onnx=True)
    else:
        error = _kept_error(student, image_size, entry)
    if error:
        logger.warning(
            f"the student {type(student).__name__} can be trained and cannot be exported: {error}. Its forward must "
            "take a batch of any size, decide nothing by values, and use operators that ONNX has"
        )


def _kept_error(student: nn.Module, image_size: int, entry: Student) -> str:
    facts = {**model_facts(entry, image_size), "torch": torch.__version__, "timm": version("timm")}
    if recalled("exportable", facts).get("exports") is True:
        return ""
    error = _export_error(student, image_size, to_onnx=False)
    if not error:  # an error may be of the moment, such as short memory: it is looked for again
        keep("exportable", facts, exports=True)
    return error


def _export_error(student: nn.Module, image_size: int, *, to_onnx: bool) -> str:
    """What torch.export says, and with to_onnx its translation to ONNX. Empty where they take the student."""
    trial = copy.deepcopy(student).cpu().float().eval().requires_grad_(False)
    for module in trial.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False  # type: ignore[assignment]  # the export's second choice, which is never refused
    images = torch.zeros(_IMAGES, 3, image_size, image_size)
    try:
        with _one_at_a_time, _quiet(), torch.no_grad():
            traced = torch.export.export(trial, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            if to_onnx:
                torch.onnx.export(traced, (), dynamo=True, verbose=False, optimize=False)
    except Exception as error:  # noqa: BLE001 - torch.export answers what it cannot take with any kind of exception
        return first_line(error.__cause__ or error)
    return ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block torch neither warns nor logs."""
    theirs = logging.getLogger("torch")
    before = theirs.level
    theirs.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.setLevel(before)
