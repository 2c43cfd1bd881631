"""Registers the small-stem models with timm as soon as timm is imported, without importing timm before that."""

import importlib
import sys
from typing import Any

_REGISTERS = "compress.models.small_stem"


class _RegisterWithTimm:
    """Imports the small stem right after timm."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "timm" or self not in sys.meta_path:
            return None
        from importlib.util import find_spec  # costs milliseconds that `compress --help` does not have

        position = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = find_spec("timm")
        finally:
            sys.meta_path.insert(position, self)
        if spec is None or spec.loader is None:
            return None
        run_timm = spec.loader.exec_module

        def run_and_register(module: Any) -> None:
            run_timm(module)
            sys.meta_path.remove(self)
            importlib.import_module(_REGISTERS)

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


def register_small_stems() -> None:
    """Now where timm is there, else when it comes."""
    if "timm" in sys.modules:
        importlib.import_module(_REGISTERS)
    else:
        sys.meta_path.insert(0, _RegisterWithTimm())
