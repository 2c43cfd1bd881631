"""ENGINE.json, the file beside every engine: what built it, from what, and the hash that it must have to be opened."""

import dataclasses
import json
from pathlib import Path

from compress.system.errors import InputError
from compress.system.files import sha256_file


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What ENGINE.json records. `batches`: smallest, best and largest. `layers`: weighted layers by their precision."""

    library: str
    version: str
    precision: str
    layers: dict[str, int]
    batches: tuple[int, int, int]
    compute_capabilities: tuple[str, ...]
    version_compatible: bool
    hardware_compatible: bool
    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    build_seconds: float


def sidecar(engine_path: Path) -> Path:
    return engine_path.with_name(f"{engine_path.name}.json")


def check_engine(engine_path: Path) -> EngineInfo:
    """What the sidecar says, once the engine's bytes match it. To open an engine is to run its maker's code.

    Raises InputError where engine or sidecar is missing, damaged or altered.
    """
    try:
        content = json.loads(sidecar(engine_path).read_text(encoding="utf-8"))
        info = EngineInfo(
            **{
                **content,
                "batches": tuple(content["batches"]),
                "compute_capabilities": tuple(content["compute_capabilities"]),
            }
        )
        digest = sha256_file(engine_path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{engine_path} or its sidecar is missing or damaged",
            "An engine without its sidecar is not opened; build it again",
        ) from error
    if digest != info.engine_sha256:
        raise InputError(f"{engine_path} is not the file that its sidecar describes", "Build the engine again")
    return info
