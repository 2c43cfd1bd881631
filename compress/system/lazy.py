"""Lets a package offer names without importing their modules before they are used.

`compress --help` must answer at once, and `import compress` must not import torch.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def hand_on(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` (PEP 562). It imports a name from its module when the name is first used.

    Args:
        package: the `__name__` of the module that offers the names.
        homes: module by name, as in {"load_recipe": "compress.recipe.load"}.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name]), name)

    return __getattr__
