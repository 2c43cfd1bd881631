"""Reading and writing ONNX files, without torch: the names that every file of ours has, and its metadata."""

from pathlib import Path

import onnx

from compress.system.errors import InputError

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
PIXELS_NAME = "pixels"
PROBABILITIES_NAME = "probabilities"


def set_metadata(proto: onnx.ModelProto, metadata: dict[str, str]) -> None:
    """Replace metadata_props; sorted, so that the bytes do not depend on the caller's order."""
    del proto.metadata_props[:]
    for key, value in sorted(metadata.items()):
        proto.metadata_props.add(key=key, value=value)


def get_metadata(path: Path) -> dict[str, str]:
    """The metadata_props of a file. Raises InputError where it is missing or damaged."""
    return {prop.key: prop.value for prop in load(path).metadata_props}


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file. Raises InputError where it is missing or damaged."""
    try:
        return onnx.load(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no ONNX file {path}", "Check the path, or export the run first") from error
    except Exception as error:  # protobuf's DecodeError has no stable import path
        raise InputError(f"{path} is not a readable ONNX file: {error}", "Export it again") from error


def save(proto: onnx.ModelProto, path: Path) -> None:
    """Write with the weights inside and maps in a fixed order."""
    path.write_bytes(proto.SerializeToString(deterministic=True))
