"""Whether a file that Python left in __pycache__ holds what its source compiles to, and nothing else.

In: the bytes of a .pyc, and its source. Out: yes or no. Nothing of the file is run. `marshal` itself is not safe with
data of strangers, so its format is read here.
"""

import importlib.util
import marshal
import re
import sys
from typing import Any

_NAME = re.compile(rf"__pycache__/(\w+)\.{re.escape(sys.implementation.cache_tag or '-')}(?:\.opt-([12]))?\.pyc")
_HEADER, _SHARED = 16, 0x80
_NUMBERS = {b"i": 4, b"g": 8, b"y": 16}
_CODE = "iiiiiooooopooioo"
"""What a code object holds since Python 3.11: i for a number, o for an object, p for the path of its source."""


def source_of(path: str) -> str | None:
    """The source of bytecode of this Python, both as POSIX paths in a folder. None where no such file is kept there."""
    found = _NAME.fullmatch(path)
    return f"{found[1]}.py" if found else None


def is_compiled_from(source: bytes, path: str, content: bytes) -> bool:
    """Whether this Python compiles a source to that bytecode, whatever the path and the date of the source.

    Args:
        source: of the module.
        path: of the .pyc as for `source_of`, which says how it was optimised.
        content: of the .pyc.
    """
    found = _NAME.fullmatch(path)
    if found is None or content[:4] != importlib.util.MAGIC_NUMBER:
        return False
    try:
        expected = compile(source, "", "exec", dont_inherit=True, optimize=int(found[2] or 0))
        return _parsed(marshal.dumps(expected)) == _parsed(content[_HEADER:])
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError):
        return False


def _parsed(data: bytes) -> Any:
    reader = _Reader(data)
    value = reader.value()
    if reader.place != len(data):
        raise ValueError("more follows")
    return value


class _Reader:
    """What marshal wrote, as tuples of a type and a value. Paths of sources are left out."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0
        self.shared: list[Any] = []

    def value(self) -> Any:
        """The next object. One that is shared is written once, and later by its number."""
        (first,) = self._bytes(1)
        kind = bytes([first & ~_SHARED])
        if kind == b"r":
            return self.shared[self._number()]
        number = len(self.shared)
        if first & _SHARED:
            self.shared.append(None)
        found = self._of(kind)
        if first & _SHARED:
            self.shared[number] = found
        return found

    def _bytes(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.place:
            raise ValueError("it ends too early")
        self.place += count
        return self.data[self.place - count : self.place]

    def _number(self) -> int:
        return int.from_bytes(self._bytes(4), "little", signed=True)

    def _of(self, kind: bytes) -> Any:
        if kind in b"NFTS.":
            return kind
        if kind in _NUMBERS:
            return kind, self._bytes(_NUMBERS[kind])
        if kind == b"l":
            digits = self._number()
            return kind, digits, self._bytes(2 * abs(digits))
        if kind in b"saAtuzZ":  # how a string is stored does not matter
            return "bytes" if kind == b"s" else "text", self._bytes(self._count(small=kind in b"zZ"))
        if kind in b"()[<>:":
            count = 3 if kind == b":" else self._count(small=kind == b")")
            return "set" if kind in b"<>" else "tuple", tuple(self.value() for _ in range(count))
        if kind == b"c":
            parts = [(part, self._number() if part == "i" else self.value()) for part in _CODE]
            return kind, tuple(value for part, value in parts if part != "p")
        raise ValueError(f"unknown type {kind!r}")

    def _count(self, *, small: bool) -> int:
        return self._bytes(1)[0] if small else self._number()
