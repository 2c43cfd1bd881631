"""Names from outside in a whole report in Markdown, read by a real Markdown library."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from export import report_runs
from export.benchmark import Benchmark

pytestmark = pytest.mark.slow
Change = Callable[..., Path]


def test_names_from_outside_are_shown_as_they_are_in_markdown(changed: Change, result: Benchmark) -> None:
    markdown_it = pytest.importorskip("markdown_it")
    evil = ["[t](www.e.vil)", "`c` $x$ &copy;", "@user http://evil.com"]
    classes = [
        {**entry.model_dump(mode="json"), "name": name} for entry, name in zip(result.classes, evil, strict=True)
    ]
    judgement = {
        "limit": "max_class_drop", "allowed": 0.1, "measured": None, "of": f" in class {evil[0]}",
        "outcome": "UNDECIDED", "samples": 0, "samples_to_decide": None, "note": f"not run: {evil[1]}",
    }  # fmt: skip
    changes = {"data__class_names": evil, "data__name": evil[0], "classes": classes, "verdict__judgements": [judgement]}
    warnings = [f"The class {name} has no images: run `compress data check`." for name in evil]
    _, text = report_runs([changed("evil", run=evil[0], recipe=evil[1], warnings=warnings, **changes)])
    page = markdown_it.MarkdownIt("commonmark").enable("table").render(text.read_text())
    assert "<a" not in page
    assert "©" not in page
    assert set(re.findall(r"<code>(\w+)", page)) <= {"student", "openvino", "compress", "benchmark"} | set(
        re.findall(r"`(\w{12})`", text.read_text())
    )
    assert "www." not in text.read_text()
    assert "http://" not in text.read_text()
    assert "@user" not in text.read_text()
    assert page.count("[t](www.e.vil)") >= 4
