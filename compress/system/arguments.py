"""Checks the arguments of the Python API.

In: a value and the types that it may have. Out: nothing, or a UsageError that names the argument.
"""

from collections.abc import Collection
from typing import Any

from compress.system.errors import UsageError


def require_type(value: Any, kinds: type | tuple[type, ...], argument: str, hint: str = "") -> None:
    """Raises UsageError unless the value is of one of these types.

    Args:
        argument: its name, such as "distill: recipe".
        hint: what to give instead.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool)):  # to Python True is the int 1
        return
    known = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
    found = f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
    raise UsageError(f"{argument} must be {known}, and is {found}", hint)


def require_each(
    values: Any, kinds: type | tuple[type, ...], argument: str, *, choices: Collection[str] = (), hint: str = ""
) -> None:
    """Raises UsageError unless the value is a list, tuple, range or set, and each entry is of one of these types.

    Args:
        argument: its name, such as "export_run: formats".
        choices: the values that an entry may have, if not any.
        hint: what to give instead.
    """
    require_type(values, (list, tuple, range, set, frozenset), argument, hint)
    for value in values:
        require_type(value, kinds, f"{argument}: an entry", hint)
        if choices and value not in choices:
            raise UsageError(f"{argument}: {value!r} is none of {', '.join(choices)}", hint)
