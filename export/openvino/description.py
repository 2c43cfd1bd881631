"""What an IR says of itself, as OpenVINO reads it. In: its path. Out: inputs and outputs, and the export's metadata."""

from pathlib import Path
from typing import Any

from compress.system.errors import InputError, first_line
from export.openvino.session import core

_TYPES = {"f32": "float", "f16": "float16", "u8": "uint8"}


def described(path: Path) -> tuple[str, dict[str, str]]:
    """The signature, as in "input: float[?, 3, 8, 8] -> logits: float[?, 2]", and the metadata below "compress".

    Raises:
        MachineError: OpenVINO is not installed.
        InputError: the file is missing or damaged.
    """
    try:
        model = core().read_model(str(path))
        signature = " -> ".join(", ".join(map(_described, values)) for values in (model.inputs, model.outputs))
        known = model.get_rt_info(["compress"]).astype(dict) if model.has_rt_info(["compress"]) else {}
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot open {path}: {first_line(error)}", "Get the file anew") from error
    return signature, {key: value.astype(str) for key, value in known.items()}


def _described(value: Any) -> str:
    kind = value.get_element_type().get_type_name()
    shape = ", ".join("?" if size.is_dynamic else str(size.get_length()) for size in value.get_partial_shape())
    return f"{value.get_any_name()}: {_TYPES.get(kind, kind)}[{shape}]"
