"""What was measured on a machine, kept by all that decides a latency, so that another budget needs no new measurement.

In: image size, batch and threads. Out: a file of Measured by architecture, in the cache.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress.system import files
from compress.system.hashes import sha256_json
from compress.system.platform import processor
from compress.system.versions import version
from export.openvino import installed
from export.pick.records import Measured

FORMAT = 3  # raise it when the same model gets other files or is timed in another way


@dataclass(frozen=True)
class Cache:
    """The measurements of this machine at one image size, batch and number of threads."""

    image_size: int
    batch: int
    threads: int
    machine: dict[str, Any] = field(default_factory=lambda: _machine())

    @property
    def path(self) -> Path:
        """The file."""
        key = {"format": FORMAT, **self.machine, "size": self.image_size, "batch": self.batch, "threads": self.threads}
        return files.cache_folder() / "pick" / f"{self.image_size}px-{sha256_json(key)[:12]}.json"

    def read(self) -> dict[str, Measured]:
        """What was measured, by architecture. A file that cannot be read counts as none."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: Measured.model_validate(entry) for name, entry in content["models"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError):
            return {}

    def add(self, measured: dict[str, Measured]) -> None:
        """Adds measurements, and replaces those of the same architectures.

        Raises:
            MachineError: the cache cannot be written.
        """
        models = {name: entry.model_dump(mode="json") for name, entry in (self.read() | measured).items()}
        self.path.parent.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(self.path, {"machine": self.machine, "models": models})


def _machine() -> dict[str, Any]:
    cpu, flags = processor()
    packages = ["torch", "timm", "onnx", "onnxruntime", *(["openvino"] if installed() else [])]
    return {"cpu": cpu, "cpu_flags": flags, "versions": {name: version(name) for name in packages}}
