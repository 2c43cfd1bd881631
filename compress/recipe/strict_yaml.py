"""The YAML that recipes may use.

In: text. Out: plain data. Scalars are those of YAML 1.2. Duplicate keys, anchors, aliases and tags are errors.
"""

import math
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

import yaml

from compress.system.errors import UsageError

MAX_DEPTH = 16
_ODD = "".join(map(chr, (0xA0, 0x1680, *range(0x2000, 0x200C), 0x202F, 0x205F, 0x2060, 0x3000, 0xFEFF)))
_ODD_SPACE = re.compile(rf"""(?m)^(?:[ \t-]*|[^"'#\n]*[:,{{\[][ \t]*)([{_ODD}])""")
"""An invisible sign that is no space to YAML, in an indentation or after a sign of YAML: it would become text."""


_QUOTED = re.compile(f"[\n\x85\u2028\u2029{_ODD}]")
"""What ends a line, or is refused outside of quotes."""


class StrictLoader(yaml.SafeLoader):
    """A loader with the scalars of YAML 1.2: 1e-3 is a number, `no` is text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.constructor.ConstructorError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if getattr(event, "tag", None):
            raise yaml.constructor.ConstructorError(None, None, "tags are not allowed", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def _int(loader: StrictLoader, node: yaml.ScalarNode) -> int:
    if len(node.value) > 40:
        raise yaml.constructor.ConstructorError(None, None, "a number with too many digits", node.start_mark)
    return int(node.value)  # 010 is ten, as in YAML 1.2


StrictLoader.add_constructor("tag:yaml.org,2002:int", _int)


class _StrictDumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or StrictLoader would not read back as text, such as 08 and 4e12."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *StrictLoader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *StrictLoader.yaml_implicit_resolvers}
    }


_StrictDumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if _QUOTED.search(text) else None
    ),
)


def dump_yaml(data: Any) -> str:
    """Plain data as YAML that `parse_yaml` reads back as the same."""
    return yaml.dump(data, Dumper=_StrictDumper, sort_keys=False, allow_unicode=True, width=math.inf)


def parse_yaml(text: str, source: str) -> Any:
    """Plain data from YAML text.

    Args:
        source: names the text in error messages.

    Raises:
        UsageError: the text is not plain YAML.
    """
    text = text.removeprefix("\ufeff")  # what Windows editors write first
    if odd := _ODD_SPACE.search(text):
        line = text.count("\n", 0, odd.end()) + 1
        name = unicodedata.name(odd[1], "odd space").lower()
        raise UsageError(
            f"{source}, line {line}: {name} (U+{ord(odd[1]):04X}) where YAML needs a plain space",
            "Text that was copied from a page has such signs.",
        )
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{source}, line {mark.line + 1}" if mark else source
        raise UsageError(f"{where}: {error.problem or 'not YAML'}", "A recipe is plain YAML without tags.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{source}: not YAML: {error}") from None
    except RecursionError:
        raise UsageError(f"{source}: nested too deeply") from None


def is_deep(raw: object) -> bool:
    """Whether data is nested more than MAX_DEPTH levels deep."""
    # Level by level, because recursion would fail on data that is nested too deeply.
    level = [raw]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, Mapping | list)
            for child in (value.values() if isinstance(value, Mapping) else value)
        ]
    return any(isinstance(value, Mapping | list) for value in level)
