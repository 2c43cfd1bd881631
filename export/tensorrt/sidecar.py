"""ENGINE.json, the file beside every engine: what built it, from what, and the hash that it must have to be opened."""

from pathlib import Path

from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.folder import sidecar
from export.records import EngineRecord


def check_engine(engine_path: Path) -> EngineRecord:
    """What the sidecar says, once the engine's bytes match it. To open an engine is to run its maker's code.

    Raises:
        InputError: engine or sidecar is missing, damaged or altered.
    """
    try:
        record = EngineRecord.read(sidecar(engine_path))
        digest = sha256_file(engine_path)
    except (OSError, InputError) as error:
        raise InputError(
            f"{engine_path} or its sidecar is missing or damaged",
            "An engine without its sidecar is not opened; build it again",
        ) from error
    if digest != record.engine_sha256:
        raise InputError(f"{engine_path} is not the file that its sidecar describes", "Build the engine again")
    return record
