"""Checks the arguments of the Python API.

In: a value and the types that it may have. Out: nothing, or a UsageError that names the argument.
"""

from typing import Any

from compress.system.errors import UsageError


def require_type(value: Any, kinds: type | tuple[type, ...], argument: str, hint: str = "") -> None:
    """Raises UsageError unless the value is of one of these types.

    Args:
        argument: its name, such as "distill: recipe".
        hint: what to give instead.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, kinds):
        return
    known = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    found = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UsageError(f"{argument} must be {known}, and is {found}", hint)
