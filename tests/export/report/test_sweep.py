"""The table of a sweep: its numbers against scipy and by hand, and its page opened in a real browser."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from export.report.sweep import write_sweep
from export.report.sweep_results import Arm, Sweep, compare
from tests.helpers.browser import Page, chromium

DATA = {"name": "digits", "eval_split": "test", "eval_images": 1000}
TOP1 = {
    "ce": [0.700, 0.712, 0.694, 0.705],
    "kd": [0.731, 0.735, 0.729, 0.730],
    "ka": [0.702, 0.709, 0.699, 0.704],
}


def row(arm: str, seed: int, top1: float | None, **more: Any) -> dict[str, Any]:
    name = f"r-{arm}-s{seed}"
    made = {"name": name, "arm": arm, "seed": seed, "run": f"runs/{name}"}
    if top1 is None:
        return made | {"status": "failed", "error": f"{name} diverged at epoch 1"} | more
    measured = {"student_top1": top1, "teacher_top1": 0.8, "student_sha256": "0" * 64, "data": DATA}
    return made | {"status": "finished"} | measured | more


def rows(**top1: list[float | None]) -> list[dict[str, Any]]:
    return [row(arm, seed, value) for arm, values in top1.items() for seed, value in enumerate(values)]


def arm_of(sweep: Sweep, name: str) -> Arm:
    return next(arm for arm in sweep.arms if arm.name == name)


def test_means_deviations_and_paired_tests_are_those_of_numpy_and_scipy() -> None:
    sweep = compare("r", rows(**TOP1), "ce")
    assert [arm.name for arm in sweep.arms] == ["ce", "kd", "ka"]
    p_values = {}
    for arm in sweep.arms:
        assert (arm.finished, arm.failed) == (4, 0)
        assert (arm.mean, arm.sd) == pytest.approx((np.mean(TOP1[arm.name]), np.std(TOP1[arm.name], ddof=1)))
        if arm.name == "ce":
            assert arm.difference is None
            continue
        expected = ttest_rel(TOP1[arm.name], TOP1["ce"])
        ends = expected.confidence_interval(0.95)
        assert arm.difference
        assert arm.difference.interval
        assert arm.difference.seeds == [0, 1, 2, 3]
        assert arm.difference.mean == pytest.approx(np.mean(TOP1[arm.name]) - np.mean(TOP1["ce"]))
        assert (arm.difference.interval.low, arm.difference.interval.high) == pytest.approx((ends.low, ends.high))
        p_values[arm.name] = expected.pvalue
        assert arm.difference.p == pytest.approx(expected.pvalue)
    # Two tests: the smaller p doubles, the larger stays, as it is above that.
    assert p_values["kd"] * 2 < p_values["ka"]
    for name, factor in (("kd", 2), ("ka", 1)):
        difference = arm_of(sweep, name).difference
        assert difference
        assert difference.holm_p == pytest.approx(factor * p_values[name])


def test_the_baseline_may_be_any_arm_and_turns_the_sign() -> None:
    forth, back = compare("r", rows(**TOP1), "ce"), compare("r", rows(**TOP1), "kd")
    one, other = arm_of(forth, "kd").difference, arm_of(back, "ce").difference
    assert one
    assert other
    assert one.interval
    assert other.interval
    assert other.mean == pytest.approx(-one.mean)
    assert (other.interval.low, other.interval.high) == pytest.approx((-one.interval.high, -one.interval.low))
    assert other.p == pytest.approx(one.p)


def test_pairs_are_made_by_seed_and_of_finished_runs_alone() -> None:
    content = rows(ce=[0.70, 0.71, None, 0.73], kd=[None, 0.72, 0.99, 0.75])
    content.append(row("kd", 9, 0.10))
    found = compare("r", list(reversed(content)), "ce")
    arm = arm_of(found, "kd")
    assert (arm.finished, arm.failed) == (4, 1)
    assert arm.difference
    assert sorted(arm.difference.seeds) == [1, 3]
    assert arm.difference.mean == pytest.approx(0.015)


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path) -> None:
    sweep = compare("r", rows(ce=[0.7], kd=[0.72]), "ce")
    arm = arm_of(sweep, "kd")
    assert (arm.sd, arm.difference and (arm.difference.interval, arm.difference.p, arm.difference.holm_p)) == (
        None,
        (None, None, None),
    )
    assert arm.difference
    assert arm.difference.mean == pytest.approx(0.02)
    page, text, _ = write_sweep(sweep, tmp_path)
    for path in (page, text):
        assert "One seed says nothing about other seeds" in path.read_text()
    assert "One seed" not in write_sweep(compare("r", rows(**TOP1), "ce"), tmp_path)[1].read_text()


def test_arms_that_lost_different_seeds_say_why_there_is_no_interval(tmp_path: Path) -> None:
    sweep = compare("r", rows(ce=[0.70, None, 0.72], kd=[0.74, 0.75, None]), "ce")
    assert "One seed says nothing about other seeds" in write_sweep(sweep, tmp_path)[1].read_text()


def test_a_baseline_of_which_no_run_finished_is_said_to_be_none(tmp_path: Path) -> None:
    for path in write_sweep(compare("r", rows(ce=[None, None], kd=[0.7, 0.72]), "ce"), tmp_path)[:2]:
        assert "No run of the baseline finished" in path.read_text()
    for path in write_sweep(compare("r", rows(ce=[0.71, None], kd=[0.7, 0.72]), "ce"), tmp_path)[:2]:
        assert "No run of the baseline" not in path.read_text()


def test_other_teachers_in_one_seed_are_said_and_other_teachers_by_seed_are_not(tmp_path: Path) -> None:
    def taught(by: str, arm: str, seed: int) -> dict[str, Any]:
        return row(arm, seed, 0.7, teacher_sha256=by * 64)

    by_arm = [taught("a", "lr=0.1", 0), taught("b", "lr=0.2", 0)]
    by_seed = [taught("a", "ce", 0), taught("a", "kd", 0), taught("b", "ce", 1), taught("b", "kd", 1)]
    for content, said in ((by_arm, True), (by_seed, False)):
        for path in write_sweep(compare("r", content, content[0]["arm"]), tmp_path)[:2]:
            assert ("learned from different teachers" in path.read_text()) is said


def test_a_teacher_without_an_accuracy_leaves_its_cell_empty(tmp_path: Path) -> None:
    content = [row("ce", 0, 0.7, teacher_top1=None), row("kd", 0, 0.71)]
    page = write_sweep(compare("r", content, "ce"), tmp_path)[0].read_text()
    runs = page[page.index('data-table="runs"') :]
    cells = [re.findall(r'data-value="([^"]*)"', line) for line in runs.splitlines() if line.startswith("<tr><td")]
    assert cells == [["0", "0.7", ""], ["0", "0.71", "0.8"]]


def test_a_table_with_runs_that_the_new_one_lacks_is_kept(tmp_path: Path) -> None:
    write_sweep(compare("r", rows(ce=[0.7, 0.71], kd=[0.72, 0.73]), "ce"), tmp_path)
    more = rows(ce=[0.7, 0.71, 0.7], kd=[0.72, 0.73, 0.74])
    whole = [path.read_bytes() for path in write_sweep(compare("r", more, "ce"), tmp_path)]
    assert len(list(tmp_path.iterdir())) == 3  # it has all that was there
    write_sweep(compare("r", rows(ce=[0.7]), "ce"), tmp_path)
    kept = [path for path in tmp_path.iterdir() if not path.stem.endswith("-sweep")]
    assert sorted(path.read_bytes() for path in kept) == sorted(whole)


def test_equal_arms_differ_by_nothing_and_nothing_is_nan(tmp_path: Path) -> None:
    sweep = compare("r", rows(ce=[0.7, 0.8, 0.75], kd=[0.7, 0.8, 0.75], ka=[0.71, 0.8, 0.76]), "ce")
    difference = arm_of(sweep, "kd").difference
    assert difference
    assert (difference.mean, difference.interval, difference.p) == (0, None, None)
    other = arm_of(sweep, "ka").difference
    assert other
    assert other.holm_p == other.p  # what cannot be tested is no test to correct for
    for path in write_sweep(sweep, tmp_path):
        assert not re.search(r"\b(nan|inf|NaN|Infinity|None)\b", path.read_text())
    assert "nothing to test with" in (tmp_path / "r-sweep.md").read_text()


def test_runs_on_other_images_are_no_pairs(tmp_path: Path) -> None:
    other = DATA | {"eval_images": 500}
    content = rows(ce=[0.7, 0.71]) + [row("kd", seed, 0.8, data=other) for seed in (0, 1)]
    sweep = compare("r", content, "ce")
    assert arm_of(sweep, "kd").difference is None
    assert [entry.eval_images for entry in sweep.data] == [1000, 500]
    assert "other images than the baseline's" in write_sweep(sweep, tmp_path)[1].read_text()


def test_where_nothing_finished_the_failures_are_the_table(tmp_path: Path) -> None:
    sweep = compare("r", rows(ce=[None, None], kd=[None, None]), "ce")
    page, text, _ = write_sweep(sweep, tmp_path)
    for path in (page, text):
        assert path.read_text().count("diverged at epoch 1") == 4


def test_the_json_is_the_sweep_and_the_markdown_its_table(tmp_path: Path) -> None:
    sweep = compare("r", rows(**TOP1 | {"ka": [0.702, None, 0.699, 0.704]}), "ce")
    page, text, content = write_sweep(sweep, tmp_path / "new" / "folder")
    assert [path.name for path in (page, text, content)] == ["r-sweep.html", "r-sweep.md", "r-sweep.json"]
    assert Sweep.model_validate_json(content.read_text()) == sweep
    lines = {line.split(" | ")[0]: line for line in text.read_text().splitlines()}
    assert lines["| ce"] == "| ce | 4 | 70.28 % ± 0.76 | – | – | – |"
    # By hand: differences 3.1, 2.3, 3.5, 2.5 points; mean 2.85, s = 0.5508, t(0.975, 3) = 3.1824.
    assert lines["| kd"].startswith("| kd | 4 | 73.12 % ± 0.26 | +2.85 (+1.97 to +3.73) | ")
    assert lines["| ka"].startswith("| ka | 3 (1 failed) | ")
    # A table begins after an empty line, or it is none.
    failed = "\n\n| failed | what went wrong |\n|---|---|\n| r-ka-s1 | r-ka-s1 diverged at epoch 1 |\n"
    assert text.read_text().endswith(failed)
    json.loads(content.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_names_and_errors_from_outside_cannot_become_markup(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>|"
    page, text, _ = write_sweep(compare("r", [row(bad, 0, None, error=bad), row("b|", 0, 0.5)], bad), tmp_path)
    for path in (page, text):
        assert "<script>alert" not in path.read_text()
    assert {line.count(" | ") for line in text.read_text().splitlines() if line.startswith("| b")} == {5}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
def test_the_page_asks_for_nothing_fits_a_phone_and_follows_the_colour_scheme(browser: Page, tmp_path: Path) -> None:
    long = "ka-ps+dtd-flsw-student.args.channels=_16__32__64__128"
    page = write_sweep(compare("r", rows(**TOP1, **{long: [0.7, None, 0.74, 0.72]}), "ce"), tmp_path)[0]
    colours = []
    for dark in (False, True):
        for width in (1200, 390):
            browser.look(width=width, dark=dark)
            browser.requests.clear()
            browser.open(page)
            assert browser.requests == [page.resolve().as_uri()]
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        colours.append(browser.run("getComputedStyle(document.querySelector('[data-plot] svg text')).fill"))
    assert browser.complaints == []
    assert colours[0] != colours[1]
    assert not re.search(r"#0\d0\d0\d", page.read_text())


@pytest.mark.slow
def test_the_plot_has_a_dot_for_every_finished_run_at_its_place(browser: Page, tmp_path: Path) -> None:
    page = write_sweep(compare("r", rows(ce=[0.70, 0.72, None], kd=[0.74, 0.71, 0.73]), "ce"), tmp_path)[0]
    browser.look()
    browser.open(page)
    dots = browser.run(
        "[...document.querySelectorAll('[data-plot=dots] svg use')].map(e => [e, e.getBoundingClientRect()])"
        ".filter(([e]) => e.getAttribute('style').includes('--student')).map(([e, r]) => [r.x, r.y])"
    )
    assert len(dots) == 5
    by_arm = sorted(dots[:2]), sorted(dots[2:])
    scale = (by_arm[0][1][0] - by_arm[0][0][0]) / 2  # pixels a point
    assert scale > 0
    assert [x - by_arm[0][0][0] for x, _ in by_arm[1]] == pytest.approx([scale, 3 * scale, 4 * scale], abs=1)
    assert by_arm[0][0][1] < by_arm[1][0][1]  # the first arm is at the top


@pytest.mark.slow
def test_a_click_sorts_the_arms(browser: Page, tmp_path: Path) -> None:
    browser.look()
    browser.open(write_sweep(compare("r", rows(**TOP1), "ce"), tmp_path)[0])
    names = browser.run(
        "(() => { const table = document.querySelector('[data-table=arms]');"
        " table.tHead.rows[0].cells[2].querySelector('button').click();"
        " return [...table.tBodies[0].rows].map(r => r.cells[0].textContent.trim().split(' ')[0]); })()"
    )
    assert names == ["ce", "ka", "kd"]
