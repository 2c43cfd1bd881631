"""An error that a library raises says what was being done; one of compress itself stays a fault."""

import json
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

from compress.system.attempts import attempting, raised_by
from compress.system.errors import InputError, MachineError, UsageError

LIBRARIES: dict[str, Any] = {
    "timm": lambda: timm.create_model("nonsense"),
    "torch": lambda: torch.nn.Linear(2, 2)(torch.zeros(3)),
    "onnx": lambda: onnx.checker.check_model(onnx.ModelProto()),
    "onnxruntime": lambda: onnxruntime.InferenceSession(b"nonsense"),
    "PIL": lambda: Image.new("RGB", (-1, 2)),
    "numpy": lambda: np.linalg.inv(np.zeros((2, 3))),
    "tests": lambda: json.loads("{"),  # what is Python's own counts for whoever calls it: here these tests
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_it_names_the_work_the_library_and_the_reason(library: str) -> None:
    words = rf"exporting FILE failed in {library} \(.+\)"
    with pytest.raises(InputError, match=words) as caught, attempting("exporting FILE", hint="Do this."):
        LIBRARIES[library]()
    assert str(caught.value).endswith("Do this.")
    assert not re.search(r"\x1b|\n", str(caught.value))


def test_the_kind_of_error_is_the_callers() -> None:
    with pytest.raises(MachineError), attempting("building", kind=MachineError):
        LIBRARIES["timm"]()


@pytest.mark.parametrize(
    "error", [UsageError("mine"), FileNotFoundError("gone"), torch.OutOfMemoryError("full"), MemoryError()]
)
def test_errors_that_say_what_they_are_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, attempting("exporting FILE"):
        raise error
    assert caught.value is error


def test_an_error_of_compress_itself_stays_what_it_is() -> None:
    """Its innermost function is in compress."""
    ours = {"__name__": "compress.losses"}
    exec(compile("def broken():\n    return {}['key']", "x", "exec"), ours)
    with pytest.raises(KeyError) as caught, attempting("exporting FILE"):
        ours["broken"]()  # type: ignore[operator]
    assert raised_by(caught.value) is None
