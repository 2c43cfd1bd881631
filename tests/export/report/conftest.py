"""A benchmark of a real run, run folders with changes of it, and a browser to look at their pages."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from export.benchmark import Benchmark
from tests.helpers.benchmarked import benchmarked, write
from tests.helpers.browser import Page, chromium

Change = Callable[..., Path]


@pytest.fixture(scope="module")
def result(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    return benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")[1]


@pytest.fixture
def changed(result: Benchmark, tmp_path: Path) -> Change:
    """A run folder of that name whose benchmark has these changes; dotted keys reach inside."""

    def make(name: str, **changes: Any) -> Path:
        content = result.model_dump(mode="json")
        for key, value in {"run": name, **changes}.items():
            *path, last = key.split("__")
            part: Any = content
            for step in path:
                part = part[int(step) if step.isdecimal() else step]
            part[last] = value
        return write(Benchmark.model_validate_json(json.dumps(content)), tmp_path / name)

    return make


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page
