"""Teacher and student of `compress init`, by latencies that are written by hand."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from compress.system.errors import UsageError
from export.pick import deployed, run, suggest, suggest_models
from export.pick.cache import Cache
from export.pick.published import figure
from export.pick.records import PrecisionName
from tests.helpers.picked import FOUND, measured, timing

SIZE = 160


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cache:
    """The cache of this machine at that size, which is empty. Whoever measures fails."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(suggest, "pick_students", lambda *args, **kwargs: pytest.fail("it was measured"))
    return Cache(SIZE, 1, threads())


def threads() -> int:
    from compress.system.platform import usable_cpus

    return usable_cpus()


def test_the_student_is_the_best_that_fits_of_what_was_measured_here(known: Cache) -> None:
    known.add(FOUND)
    models = suggest_models(SIZE, 5.0, gpu=False)
    assert models.student.startswith("resnet18.")
    assert "5.00 ms (p90) here as fp32 in onnxruntime" in models.student_why
    assert suggest_models(SIZE, 4.0, gpu=False).student.startswith("resnet10t.")


@pytest.mark.parametrize(
    ("precision", "here", "formats", "precisions"),
    [
        ("int8", False, ["onnx"], ["fp32", "int8"]),
        ("fp32", True, ["onnx", "openvino"], ["fp32", "int8"]),
        ("bf16", True, ["onnx", "openvino"], ["fp32", "bf16", "int8"]),
    ],
)
def test_the_export_makes_what_the_student_was_chosen_as(
    known: Cache,
    monkeypatch: pytest.MonkeyPatch,
    precision: PrecisionName,
    here: bool,
    formats: list[str],
    precisions: list[str],
) -> None:
    for place in (deployed, run):
        monkeypatch.setattr(place, "installed", lambda: here)
    known.add({"resnet18": measured(timing(3.0, "openvino" if here else "onnxruntime", precision))})
    models = suggest_models(SIZE, 5.0, gpu=False)
    assert (models.formats, models.precisions) == (formats, precisions)
    assert models.precisions_why == f"the student was chosen as {precision}"
    lines = yaml.safe_load(run.recipe_lines(run.cached_rows(SIZE, 5.0)[0], 5.0, runtimes=run._installed()))
    assert lines["export"] == {"formats": formats, "precisions": precisions}
    without = suggest_models(SIZE, None, gpu=False)
    assert (without.formats, without.precisions) == (formats, ["fp32", "int8"])


def test_where_nothing_was_measured_a_short_list_is(known: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def measure(image_size: int, p90_ms: float, *, models: tuple[str, ...]) -> None:
        asked.update(image_size=image_size, p90_ms=p90_ms, models=models)
        known.add({"lcnet_100": FOUND["resnet18"]})

    monkeypatch.setattr(suggest, "pick_students", measure)
    assert suggest_models(SIZE, 5.0, gpu=False).student == "lcnet_100.ra2_in1k"
    assert asked == {"image_size": SIZE, "p90_ms": 5.0, "models": suggest.SHORT_LIST}
    assert all(figure(name) for name in suggest.SHORT_LIST)


def test_where_nothing_fits_the_nearest_is_taken_with_a_warning(
    known: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(suggest, "pick_students", lambda *args, **kwargs: known.add(FOUND))
    models = suggest_models(SIZE, 0.1, gpu=False)
    assert models.student.startswith(("resnet10t.", "mobilenetv3_small_100."))
    assert models.student_why.startswith("nothing fits; the nearest")
    assert "nothing fits 0.1 ms at 160 pixels" in caplog.text


def test_without_a_budget_nothing_is_measured(known: Cache) -> None:
    models = suggest_models(SIZE, None, gpu=False)
    assert (models.student, models.teacher) == ("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite2.in1k")


def test_without_a_budget_the_best_that_was_measured_here_and_is_no_slower_than_the_default_is_taken(
    known: Cache,
) -> None:
    """Published: lite0 74.8 %, resnet18 71.5 %, resnet50 80.8 %."""
    known.add(FOUND | {"tf_efficientnet_lite0": measured(timing(5.0, precision="int8"))})
    models = suggest_models(SIZE, None, gpu=False)
    assert models.student == "tf_efficientnet_lite0.in1k"
    assert "5.00 ms (p90) here as int8 in onnxruntime" in models.student_why
    known.add({"resnet50": measured(timing(4.9, precision="int8"))})
    models = suggest_models(SIZE, None, gpu=False)
    assert models.student.startswith("resnet50.")
    assert "the best measured here that is no slower than tf_efficientnet_lite0.in1k" in models.student_why
    assert suggest_models(SIZE * 2, None, gpu=False).student == "tf_efficientnet_lite0.in1k"


def test_where_the_default_was_not_measured_it_stays(known: Cache) -> None:
    known.add(FOUND)
    models = suggest_models(SIZE, None, gpu=False)
    assert models.student == "tf_efficientnet_lite0.in1k"
    assert models.student_why.startswith("fast as INT8 in every runtime")


@pytest.mark.parametrize("budget", [float("nan"), float("inf"), 0.0])
def test_a_budget_that_is_no_number_above_0_is_refused_before_anything_is_measured(known: Cache, budget: float) -> None:
    for choose in (lambda: suggest_models(SIZE, budget, gpu=False), lambda: run.pick_students(SIZE, budget)):
        with pytest.raises(UsageError, match="finite number above 0"):
            choose()


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("budget", [2.0, 5.0, 20.0])
def test_the_teacher_is_better_than_the_student(known: Cache, budget: float, gpu: bool) -> None:
    known.add(FOUND)
    models = suggest_models(SIZE, budget, gpu=gpu)
    teacher = next(one for one in suggest.teachers() if one.model == models.teacher)
    student = figure(models.student)
    assert student is not None
    assert teacher.top1 >= student.top1 + 2
    assert bool(models.teacher_train) == teacher.model.startswith("convnext")
    if gpu:
        assert models.teacher.startswith("convnext_small")
