"""The report as files, and its page opened in a real browser."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compress.runs.folder import Run
from compress.system.errors import InputError, UsageError
from compress.training.trackers import open_trackers
from export import report_runs
from export.benchmark import Benchmark, latency
from export.benchmark.results import Thumbnail
from export.report import markdown
from tests.helpers.browser import Page
from tests.helpers.bundles import bundle_manifest

PLOTS = {"pareto", "waterfall", "classes", "reliability", "curves", "flips"}
# One red pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"

pytestmark = pytest.mark.slow
Change = Callable[..., Path]


def test_the_page_asks_for_nothing_and_complains_of_nothing(
    browser: Page, changed: Change, result: Benchmark, finished: Path
) -> None:
    first = result.comparisons[0]
    picture = Thumbnail(
        comparison=f"teacher.torch → {result.verdict.recommended}", index=3, caption="dark", image_base64=PIXEL
    )
    run = changed("one", thumbnails=[picture.model_dump()])
    shutil.copy(finished / "metrics.jsonl", run)
    page, _ = report_runs([run])
    for dark in (False, True):
        for width in (1200, 390):
            browser.look(width=width, dark=dark)
            browser.requests.clear()
            browser.open(page)
            assert browser.requests == [page.resolve().as_uri()]
            # Nothing sticks out sideways: wide tables scroll inside their own box.
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints == []
    assert first.reference == "teacher.torch"


NOT_RUN = {"source": "not run", "reason": "OpenVINO is not installed here"}
CUT = """(() => {
  document.querySelectorAll('details').forEach(d => d.open = true);
  return [...document.querySelectorAll('table')]
    .map(t => [t.dataset.table, Math.max(t.scrollWidth, t.parentElement.scrollWidth), t.parentElement.clientWidth])
    .filter(([name, needed, there]) => needed > there);
})()"""


def test_no_column_is_cut_on_a_desk(browser: Page, changed: Change, result: Benchmark, tmp_path: Path) -> None:
    """With every column: prices, balanced accuracies, long names, and reasons for what was not run."""
    long = result.model_dump_json().replace("student.fp16.onnx", "openvino/student.int8.xml:bf16")
    content = json.loads(long.replace("student.int8.onnx", "student.int8.trt.onnx:openvino:bf16"))
    for candidate in content["candidates"]:
        candidate["accuracy"]["balanced_top1"] = 0.4321
    content["candidates"][-1].update(latency=NOT_RUN, memory=NOT_RUN)
    limits = {**content["settings"]["limits"], "price_per_hour": 3.6}
    content["settings"]["limits"], content["verdict"]["balanced_top1"] = limits, 0.5
    changes = {key: content[key] for key in content if key not in ("run", "sha256")}
    runs = [changed("one", **changes), changed("another_run_with_a_long_name", **changes)]
    browser.look(width=1200)
    for page in (report_runs(runs[:1])[0], report_runs(runs, tmp_path / "both.html")[0]):
        browser.open(page)
        assert browser.run("document.querySelectorAll('table').length") >= 6
        assert browser.run(CUT) == []


def test_reasons_stand_on_the_page_and_not_in_tooltips_alone(browser: Page, changed: Change, result: Benchmark) -> None:
    content = result.model_dump(mode="json")
    content["candidates"][-1].update(latency=NOT_RUN, memory=NOT_RUN)
    content["candidates"][-2].update(latency=NOT_RUN, memory=NOT_RUN, accuracy={**NOT_RUN, "reason": "no GPU here"})
    note = "not run: the model alone was not timed at batch 1"
    judgement = {"limit": "p90_ms", "allowed": 5.0, "measured": None, "outcome": "UNDECIDED", "samples": 0}
    judgement |= {"samples_to_decide": None, "note": note}
    disturbed = {**judgement, "measured": {"value": 6.0, "low": 5.5, "high": 6.5}}
    run = changed("reasons", candidates=content["candidates"], verdict__judgements=[judgement, disturbed])
    browser.look()
    page, text = report_runs([run])
    browser.open(page)
    decides = "[...document.querySelector('[data-table=limits]').tBodies[0].rows].map(r => r.cells[r.cells.length - 1])"
    assert browser.run(f"{decides}.map(c => c.textContent)") == ["a run at batch 1", "a quiet machine"]
    rows = [line for line in text.read_text(encoding="utf-8").splitlines() if line.startswith("| p90")]
    assert [row.strip("| ").split(" | ")[-1] for row in rows] == ["a run at batch 1", "a quiet machine"]
    seen = browser.run("document.body.innerText")
    for reason in ("OpenVINO is not installed here", "no GPU here", note):
        assert reason in seen


def test_the_notes_of_limits_stand_on_the_page(browser: Page, changed: Change) -> None:
    """Also where something was measured."""
    note = "Other work held the CPUs: on a quiet machine it may pass."
    measured = {"value": 6.0, "low": 5.5, "high": 6.5}
    judgement = {"limit": "p90_ms", "allowed": 5.0, "measured": measured, "outcome": "UNDECIDED", "samples": 100}
    judgement |= {"samples_to_decide": 900, "note": note}
    page, text = report_runs([changed("notes", verdict__judgements=[judgement])])
    browser.look()
    browser.open(page)
    assert note in browser.run("document.body.innerText")
    assert note in text.read_text()


def test_every_plot_is_there_and_has_a_size(browser: Page, changed: Change) -> None:
    browser.look()
    browser.open(report_runs([changed("plots")])[0])
    sizes = browser.run(
        "Object.fromEntries([...document.querySelectorAll('[data-plot]')].map(f => [f.dataset.plot,"
        " f.dataset.plot == 'flips' ? 1 : f.querySelector('svg path').getBoundingClientRect().width]))"
    )
    assert set(sizes) == PLOTS
    assert min(sizes.values()) > 0
    ids = browser.run("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))


def test_the_verdict_is_at_the_top(browser: Page, changed: Change, result: Benchmark) -> None:
    browser.look()
    browser.open(report_runs([changed("verdict", verdict__outcome="UNDECIDED")])[0])
    assert browser.run("document.querySelector('[data-verdict]').dataset.verdict") == "UNDECIDED"
    assert browser.run("document.querySelector('[data-verdict]').getBoundingClientRect().bottom < 400")
    assert result.verdict.recommended
    assert result.verdict.recommended in browser.run("document.querySelector('[data-verdict]').textContent")


def test_a_click_sorts_and_a_second_one_reverses(browser: Page, changed: Change) -> None:
    browser.look()
    browser.open(report_runs([changed("sorted")])[0])
    size_column = "[...table.tHead.rows[0].cells].findIndex(h => h.textContent == 'File MB')"
    script = (
        "(() => { const table = document.querySelector('[data-table=candidates]'), column = " + size_column + ";"
        " table.tHead.rows[0].cells[column].querySelector('button').click();"
        " return [table.tHead.rows[0].cells[column].ariaSort,"
        " [...table.tBodies[0].rows].map(r => +r.cells[column].dataset.value)]; })()"
    )
    direction, values = browser.run(script)
    assert (direction, values) == ("ascending", sorted(values))
    assert len(set(values)) > 2
    direction, values = browser.run(script)
    assert (direction, values) == ("descending", sorted(values, reverse=True))


def test_text_and_lines_follow_the_colour_scheme(browser: Page, changed: Change) -> None:
    page = report_runs([changed("colours")])[0]
    seen = []
    for dark in (False, True):
        browser.look(dark=dark)
        browser.open(page)
        seen.append(browser.run("getComputedStyle(document.querySelector('[data-plot] svg text')).fill"))
    assert seen[0] != seen[1]
    assert not re.search(r"#0\d0\d0\d", page.read_text())


def test_names_from_outside_cannot_become_markup(changed: Change) -> None:
    page, text = report_runs([changed("<script>alert(1)</script>|".replace("/", "_"), recipe="<b>x</b>")])
    assert "<script>alert" not in page.read_text()
    assert "<script>alert" not in text.read_text()


def test_markdown_answers_first_and_its_rows_are_whole(changed: Change, result: Benchmark) -> None:
    text = report_runs([changed("text")])[1].read_text(encoding="utf-8")
    assert text.startswith(f"## {result.verdict.outcome}: text\n")
    widths = {len(line.split(" | ")) for line in text.splitlines() if line.startswith("| student.")}
    assert len(widths) == 2  # of the two tables


def test_balanced_accuracy_stands_in_the_verdict_where_classes_are_unequal(changed: Change, result: Benchmark) -> None:
    assert result.verdict.balanced_top1 is None
    scores = {f"candidates__{row}__accuracy__balanced_top1": 0.4321 for row in range(2)}
    pages = [report_runs(changed("run")), report_runs(changed("other", verdict__balanced_top1=0.5678, **scores))]
    texts = [path.read_text(encoding="utf-8") for written in pages for path in written]
    assert ["Balanced top-1" in text for text in texts] == [False, False, True, True]
    assert all("56.78 %" in text and "43.21 %" in text for text in texts[2:])


def test_a_file_that_was_made_anew_since_it_was_measured_is_named(changed: Change, result: Benchmark) -> None:
    candidates = [entry.model_dump(mode="json") for entry in result.candidates]
    same, other = [entry for entry in candidates if entry["runtime"] == "ort"][:2]
    same["sha256"] = hashlib.sha256(b"as it was measured").hexdigest()
    run = changed("anew", candidates=candidates)
    (run / "export").mkdir()
    (run / "export" / same["name"]).write_bytes(b"as it was measured")
    (run / "student").mkdir()
    page, text = report_runs([run])
    assert "Made anew" not in page.read_text() + text.read_text()
    (run / "export" / other["name"]).write_bytes(b"another one")
    (run / "student" / "model.safetensors").write_bytes(b"trained on")
    page, text = report_runs([run])
    for path in (page, text):
        assert f"Made anew, or gone, since this was measured: student.torch, {other['name']}." in path.read_text()


def test_a_bundle_with_another_default_is_a_warning_of_the_page(changed: Change, result: Benchmark) -> None:
    run = changed("bundled", verdict__outcome="PASS")
    (run / "export" / "bundle").mkdir(parents=True)
    bundle_manifest("other.onnx").write(run / "export" / "bundle" / "manifest.json")
    for path in report_runs([run]):
        written = path.read_text(encoding="utf-8")
        assert f"is other.onnx, and the benchmark recommends {result.verdict.recommended}" in written
    assert "other.onnx" not in markdown([Run(run)])  # which goes to other machines


@pytest.mark.parametrize(("rate", "words"), [(2.0, "2.0× cheaper"), (0.5, "2.0× dearer")])
def test_what_costs_more_than_the_reference_is_dearer(
    changed: Change, result: Benchmark, rate: float, words: str
) -> None:
    candidates = [entry.model_dump(mode="json") for entry in result.candidates]
    for candidate in candidates:
        own = 100 * rate if candidate["name"] == "student.onnx" else 100.0
        for entry in candidate["latency"]:
            entry |= {"busy": 0.0, "images_per_s": {"value": own, "low": own, "high": own}}
    limits = {**result.settings.limits, "price_per_hour": 3.6}
    changes = {"candidates": candidates, "settings__limits": limits, "verdict__recommended": "student.onnx"}
    for path in report_runs([changed("price", **changes)]):
        assert words in path.read_text(encoding="utf-8")


def test_an_interval_of_too_few_rounds_is_words_and_no_number(changed: Change, result: Benchmark) -> None:
    slow, fast = (latency.Series("", [np.array([time])] * 3) for time in (3000, 2000))
    few = latency.ratio(slow, fast)
    interval = {"value": few.value, "low": few.low, "high": few.high}
    candidates = [entry.model_dump(mode="json") for entry in result.candidates]
    for candidate in candidates:
        for entry in candidate["latency"]:
            fair = {"reference": "teacher.onnx", "speedup": interval}
            entry |= {"busy": 0.0, "speedup": interval, "like_for_like": fair if entry["like_for_like"] else None}
    again = {"candidate": "student.onnx", "batch": 1, "threads": 1, "ratio": interval, "differs": False}
    changes = {"candidates": candidates, "aa": [again], "verdict__recommended": "student.onnx"}
    page, text = report_runs([changed("few", **changes)])
    assert "; too few rounds for an interval" in text.read_text(encoding="utf-8")
    assert "ratio 1.500 (too few rounds for an interval)" in page.read_text(encoding="utf-8")
    for path in (page, text):
        assert not re.search(r"\d{100}", re.sub(r"base64,[^\"]*", "", path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("damage", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: '{"run": "x"}'])
def test_a_damaged_benchmark_is_refused_and_nothing_is_overwritten(
    changed: Change, damage: Callable[[str], str]
) -> None:
    whole, broken = changed("whole"), changed("broken")
    before = [path.write_text("before") and path for path in (broken / "report.html", broken / "report.md")]
    (broken / "benchmark.json").write_text(damage((broken / "benchmark.json").read_text()))
    for runs in ([broken], [whole, broken]):
        with pytest.raises(InputError, match=r"broken.*benchmark\.json is damaged") as caught:
            report_runs(runs, broken / "report.html")
        assert caught.value.code == 3
    assert [path.read_text() for path in before] == ["before", "before"]


def test_a_run_that_was_not_benchmarked_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compress benchmark"):
        report_runs([tmp_path])
    with pytest.raises(UsageError):
        report_runs([])
    with pytest.raises(UsageError, match=r"\.html"):
        report_runs([tmp_path], tmp_path / "report.md")


def test_a_report_of_one_run_goes_to_its_tracked_run(
    changed: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    run = changed("tracked")
    open_trackers(["mlflow"], run, {}).finish("finished")
    report_runs(run)
    id_ = json.loads((run / "trackers.json").read_text())["mlflow"]["id"]
    files = tracking.MlflowClient().list_artifacts(id_)
    assert {file.path for file in files} == {"report.html", "report.md"}


def test_lost_images_are_drawn_large_enough_to_see_why(browser: Page, changed: Change, result: Benchmark) -> None:
    wide = {"comparison": f"teacher.torch → {result.verdict.recommended}", "index": 3, "caption": "dark"}
    buffer = io.BytesIO()
    Image.new("RGB", (224, 149), "red").save(buffer, "WEBP")
    photo = {**wide, "media_type": "image/webp", "image_base64": base64.b64encode(buffer.getvalue()).decode()}
    browser.look()
    browser.open(report_runs([changed("pictures", thumbnails=[{**wide, "image_base64": PIXEL}, photo])])[0])
    drawn = browser.run(
        "[...document.querySelectorAll('.flips img')].map(i => [i.naturalWidth, i.clientWidth, i.clientHeight,"
        " getComputedStyle(i).imageRendering, getComputedStyle(i).objectFit])"
    )
    assert [each[0] for each in drawn] == [1, 224]
    assert all(each[1] >= 160 and each[2] >= 160 for each in drawn)
    assert [each[3:] for each in drawn] == [["pixelated", "contain"], ["auto", "contain"]]
