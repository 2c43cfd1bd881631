"""Several runs in one report: told apart, and compared only where they saw the same pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compress.system.errors import InputError
from export import report_runs
from tests.helpers.browser import Page

pytestmark = pytest.mark.slow
Change = Callable[..., Path]


def test_several_runs_stand_side_by_side(browser: Page, changed: Change, tmp_path: Path) -> None:
    runs = [changed("first"), changed("second"), changed("third", data__name="other", data__sha256="1" * 64)]
    page, text = report_runs(runs, tmp_path / "all.html")
    assert (page, text) == (tmp_path / "all.html", tmp_path / "all.md")
    browser.look()
    browser.open(page)
    assert browser.run("document.querySelectorAll('section').length") == 3
    links = browser.run("[...document.querySelectorAll('[data-table=overview] a')].map(a => a.textContent)")
    assert links == ["first", "second", "third"]
    ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    assert not (runs[0] / "report.html").exists()


OTHER_CLASSES = {"data__class_names": ["dark", "grey", "pale"]}


@pytest.mark.parametrize(
    ("name", "difference", "word"),
    [("cinic10", OTHER_CLASSES, "classes"), ("folder", {"data__sha256": "0" * 64}, "images or labels")],
)
def test_runs_of_one_data_set_that_saw_different_data_are_refused(
    changed: Change, tmp_path: Path, name: str, difference: dict[str, Any], word: str
) -> None:
    out = tmp_path / "all.html"
    out.write_text("before")
    with pytest.raises(InputError, match=f"first and second are both on .*{word}") as caught:
        report_runs([changed("first", data__name=name), changed("second", data__name=name, **difference)], out)
    assert caught.value.code == 3
    assert out.read_text() == "before"


@pytest.mark.parametrize("name", ["folder", "csv", "hub"])
def test_own_pictures_of_other_classes_are_another_data_set(changed: Change, tmp_path: Path, name: str) -> None:
    runs = [changed("first", data__name=name), changed("second", data__name=name, **OTHER_CLASSES, data__sha256="0")]
    assert all(path.is_file() for path in report_runs(runs, tmp_path / "all.html"))
    more = changed("third", data__name=name, **OTHER_CLASSES, data__sha256="1")
    with pytest.raises(InputError, match="second and third are both on"):
        report_runs([*runs, more], tmp_path / "all.html")
