"""A run whose teacher has no last layer, from distillation to its report: the student in PyTorch is what is compared
with.
"""

import json
import logging
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from compress import distill, load_recipe, load_student
from compress.runs.data import data_of_student
from compress.runs.folder import Run
from compress.system.errors import UsageError
from export import benchmark_run, export_run, report_runs
from export.benchmark import AccuracyResult, Benchmark, read_benchmark
from export.benchmark.latency import MAX_BUSY
from export.delivery import push_run
from export.runtimes import normalise
from tests.helpers.benchmarked import benchmarked
from tests.helpers.command import snapshot
from tests.helpers.published import publish

pytestmark = pytest.mark.slow
FILES = ["student.onnx", "student.int8.onnx"]
WHY = "The teacher has no last layer: it taught by its features and classifies nothing."


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Exported, but not benchmarked."""
    home = tmp_path_factory.mktemp("headless")
    publish("vit_tiny_patch16_224", home / "weights", args={"num_classes": 0, "embed_dim": 48, "depth": 1})
    teacher = f"{{model: vit_tiny_patch16_224, source: pretrained, weights: {home / 'weights'}, image_size: 32}}"
    features = "supervision.terms=[{name: fitnet, weight: 1}]"
    recipe = load_recipe(tiny_recipe, method="ce", overrides=[f"teacher={teacher}", features])
    made = distill(recipe, out=home / "run")
    export_run(made, precisions=("fp32", "int8"), bundle="folder", threads=1)
    return made


@pytest.fixture(scope="module")
def measured(run: Run) -> Benchmark:
    found = benchmark_run(run, runtimes=("torch", "ort"), batches=(1,), threads=(1,), min_seconds=0.01, min_runs=8)
    assert read_benchmark(run) == found
    return found


@pytest.fixture(scope="module")
def answers(run: Run) -> dict[str, np.ndarray]:
    """The class of each image of the evaluation split, by torch and by plain ONNX Runtime."""
    data = data_of_student(run)
    inputs = normalise(data.eval_images, data.mean, data.std)
    with torch.inference_mode():
        found = {"student.torch": load_student(run)(torch.from_numpy(inputs)).numpy().argmax(1)}
    for name in FILES:
        session = onnxruntime.InferenceSession(run.export / name)
        found[name] = np.asarray(session.run(None, {"input": inputs})[0]).argmax(1)
    return found


def test_the_student_in_torch_takes_the_place_of_the_teacher(run: Run, measured: Benchmark) -> None:
    assert measured.reference == "student.torch"
    assert [entry.name for entry in measured.candidates] == ["student.torch", *FILES]
    assert not list(run.export.rglob("teacher*"))
    assert [step.name for step in measured.waterfall] == ["Student", "ONNX", "INT8"]
    assert [step.drop is None for step in measured.waterfall] == [True, False, False]
    pairs = [(entry.reference, entry.candidate) for entry in measured.comparisons]
    assert pairs == [("student.torch", name) for name in FILES] + [("student.onnx", "student.int8.onnx")]
    for candidate in measured.candidates:
        assert isinstance(candidate.latency, list)
        for entry in candidate.latency:
            assert (entry.speedup is None) == (candidate.name == "student.torch" or entry.busy > MAX_BUSY)
            assert entry.like_for_like is None


def test_drops_and_agreement_are_those_of_the_answers_themselves(
    run: Run, measured: Benchmark, answers: dict[str, np.ndarray]
) -> None:
    labels = np.asarray(data_of_student(run).eval_labels)
    before = answers["student.torch"]
    for comparison in measured.comparisons[:2]:
        after = answers[comparison.candidate]
        drop = float(np.mean(before == labels) - np.mean(after == labels))
        assert comparison.drop.value == pytest.approx(drop)
        assert comparison.agreement.value == pytest.approx(np.mean(before == after))
    recommended = measured.verdict.recommended
    assert recommended in FILES
    (judged,) = [entry for entry in measured.verdict.judgements if entry.limit == "max_top1_drop"]
    assert judged.measured
    assert judged.measured.value == pytest.approx(
        np.mean(before == labels) - np.mean(answers[str(recommended)] == labels)
    )
    names = data_of_student(run).class_names
    for change in measured.classes:
        own = labels == names.index(change.name)
        assert change.reference_top1 == pytest.approx(np.mean(before[own] == labels[own]))
        assert change.candidate_top1 == pytest.approx(np.mean(answers[str(recommended)][own] == labels[own]))


def test_the_report_never_calls_the_student_its_teacher(run: Run, measured: Benchmark) -> None:
    page, markdown = (path.read_text() for path in report_runs(run))
    reference = measured.candidate("student.torch").accuracy
    assert isinstance(reference, AccuracyResult)
    for text in (page, markdown):
        assert WHY in text
        assert f", the student in PyTorch {100 * reference.top1.value:.2f} %; the difference is" in text
    body = page[page.index("</style>") :]
    for text in (body, markdown):
        named = [line for line in text.splitlines() if re.search("teacher", line, re.IGNORECASE)]
        assert [line for line in named if WHY not in line] == []
    assert "Points vs PyTorch" in page
    assert "Student in PyTorch</button>" in page
    assert "against PyTorch, points" in markdown
    assert "| worst classes | images | student in PyTorch | student |" in markdown


def test_beside_a_run_whose_teacher_classifies_each_reference_is_named(
    run: Run, measured: Benchmark, finished: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other, taught = benchmarked(finished, tmp_path_factory.getbasetemp() / "benchmarked")
    assert (measured.reference, taught.reference) == ("student.torch", "teacher.torch")
    page, markdown = (path.read_text() for path in report_runs([run, other], tmp_path / "both.html"))
    overview = page[: page.index("<section")]
    assert ">Reference</button>" in overview
    assert ", teacher.torch</small>" in overview
    assert ", student.torch</small>" in overview
    table = markdown[: markdown.index("## ")]
    assert "| best file | reference | student |" in table
    assert "% (teacher.torch) |" in table
    assert "% (student.torch) |" in table
    alone, _ = (path.read_text() for path in report_runs([other, other.path], tmp_path / "taught.html"))
    assert ">Teacher</button>" in alone[: alone.index("<section")]


def test_a_line_says_what_is_compared_with(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "export"):
        benchmark_run(run, runtimes=("ort",), batches=(1,), threads=(1,), min_seconds=0, min_runs=2)
    line = "the teacher has no last layer, so its student's files are compared with student.torch"
    assert caplog.messages.count(line) == 1
    assert not [message for message in caplog.messages if "exporting the teacher" in message]


def test_exporting_the_teacher_is_refused_before_any_work(run: Run) -> None:
    before = snapshot(run.path)
    with pytest.raises(UsageError, match=r"no last layer.*Leave out --teacher"):
        export_run(run, precisions=("fp16",), teacher=True)
    assert snapshot(run.path) == before


def test_what_is_handed_on_says_that_the_teacher_has_no_last_layer(run: Run, measured: Benchmark) -> None:
    readme = (run.export / "bundle" / "README.md").read_text()
    assert "its teacher has no last layer." in readme
    folder = Path(push_run(run, "me/small", dry_run=True)["folder"])
    card = (folder / "README.md").read_text()
    assert "its teacher has no last layer." in card
    assert WHY in card
    assert {path.name for path in (folder / "onnx").iterdir()} == set(FILES)


def test_a_benchmark_of_before_has_the_teacher_as_its_reference(measured: Benchmark) -> None:
    content = measured.model_dump(mode="json")
    del content["reference"]
    assert Benchmark.model_validate_json(json.dumps(content)).reference == "teacher.torch"
