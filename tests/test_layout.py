"""The layout: what several modules of tests need is in helpers or reference, and no module anywhere is long."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

MODULES = sorted((ROOT / "tests").rglob("*.py"))
COMMON = ("helpers", "reference")


def imported(source: str) -> Iterator[str]:
    """The modules that a source imports, by their whole names; of `from package import name` also the name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_tests_alone(name: str) -> bool:
    """Whether it is a module that pytest collects, or a conftest: it must not be imported."""
    return name.split(".")[0] == "conftest" or (name.startswith("tests.") and name.split(".")[1] not in COMMON)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_is_imported_from_the_tests_is_in_helpers_or_reference(path: Path) -> None:
    assert not list(filter(of_tests_alone, imported(path.read_text())))


def test_no_module_is_above_300_lines() -> None:
    others = (path for folder in ("compress", "export", "tools") for path in (ROOT / folder).rglob("*.py"))
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in (*MODULES, *others)}
    assert not {name: length for name, length in lengths.items() if length > 300}
