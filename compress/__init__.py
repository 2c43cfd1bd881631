"""compress: distil timm image classifiers with better supervision, and take the students to deployment.

    from compress import distill, load_recipe, load_student

Importing this registers the small-stem models with timm, without importing timm (which takes seconds) before you do.
"""

import importlib
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.distillation import distill, load_student
    from compress.recipe import load_recipe

__version__ = "0.1.0"
__all__ = ["distill", "load_recipe", "load_student"]

_HOMES = {"distill": "compress.distillation", "load_student": "compress.distillation", "load_recipe": "compress.recipe"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'compress' has no attribute {name!r}")


class _RegisterWithTimm(importlib.abc.MetaPathFinder):
    """Imports compress.small_stem as soon as timm has been imported."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "timm" or self not in sys.meta_path:
            return None
        position = sys.meta_path.index(self)
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec("timm")
        finally:
            sys.meta_path.insert(position, self)
        if spec is None or spec.loader is None:
            return None
        run_timm = spec.loader.exec_module

        def run_and_register(module: Any) -> None:
            run_timm(module)
            sys.meta_path.remove(self)
            importlib.import_module("compress.small_stem")

        spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec


if "timm" in sys.modules:
    importlib.import_module("compress.small_stem")
else:
    sys.meta_path.insert(0, _RegisterWithTimm())
