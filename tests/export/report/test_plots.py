"""Names in the plot of accuracy against latency: those of a decision, and none above another."""

import itertools
import re
import warnings
from types import SimpleNamespace
from typing import Any

import matplotlib.text
import pytest
from matplotlib.figure import Figure

from export.benchmark import Interval
from export.benchmark.results import Step
from export.report import plots


def benchmark(number: int) -> Any:
    names = ["teacher.torch", "student.torch", *(f"file{place}" for place in range(number))]
    candidates = [SimpleNamespace(name=name, runtime=name.partition(".")[2] or "ort") for name in names]
    return SimpleNamespace(
        candidates=candidates, verdict=SimpleNamespace(recommended="file3", pareto=["file3", "file5"])
    )


def test_of_many_models_those_are_named_that_a_decision_is_about(monkeypatch: pytest.MonkeyPatch) -> None:
    fair = SimpleNamespace(like_for_like=SimpleNamespace(reference="file7"))
    monkeypatch.setattr(plots, "primary_latency", lambda _, name: fair if name == "file3" else None)
    for number, expected in (
        (4, ["teacher.torch", "student.torch", "file0", "file1", "file2", "file3"]),
        (18, ["teacher.torch", "student.torch", "file3", "file5", "file7"]),
    ):
        given = benchmark(number)
        points = {candidate.name: (1.0, 80.0) for candidate in given.candidates}
        assert plots._named(given, points) == expected


def test_no_name_covers_another_where_points_are_close() -> None:
    figure = Figure(figsize=(4.8, 3.4))
    axes = figure.subplots()
    points = {f"a rather long name {place}": (2 + place / 50, 82 + place / 10) for place in range(8)}
    axes.scatter(*zip(*points.values(), strict=True))
    axes.set(xscale="log", xlim=(1, 50), ylim=(76, 88))
    plots._label(axes, points, list(points.values()))
    figure.draw_without_rendering()
    texts = [child for child in axes.get_children() if isinstance(child, matplotlib.text.Annotation)]
    assert len(texts) == len(points)
    for one, other in itertools.combinations(texts, 2):
        assert not one.get_window_extent().overlaps(other.get_window_extent())


def waterfall(run: str, *steps: str) -> str:
    drawn = [
        Step(
            name=name,
            candidate="teacher.torch",
            source="measured",
            top1=Interval(value=0.9, low=0.8, high=1.0),
            drop=None,
            p50_ms=None,
            size_bytes=1,
            agreement=None,
            max_logit_diff=None,
        )
        for name in steps
    ]
    given: Any = SimpleNamespace(run=run, waterfall=drawn)
    return plots.waterfall(given)


@pytest.mark.parametrize("names", [("Run", "run"), ("lr_0.1", "lr-0-1"), ("данные", "фото"), ("猫", "犬")])
def test_no_plot_of_a_page_uses_the_parts_of_another(names: tuple[str, str]) -> None:
    first, second = (waterfall(name, "Teacher") for name in names)
    one, other = (set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second))
    assert one
    assert other
    assert not one & other
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', second)) <= other


def test_a_name_in_any_script_is_text_and_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ">猫</text>" in waterfall("run", "猫")


def test_no_scale_of_the_waterfall_goes_above_100_percent() -> None:
    """Also where an interval does."""
    steps = []
    for name, top1 in (("teacher", 0.985), ("student", 0.995)):
        drop = None if name == "teacher" else Interval(value=-0.01, low=-0.04, high=0.02)
        step = Step(
            name=name.capitalize(),
            candidate=f"{name}.torch",
            source="measured",
            top1=Interval(value=top1, low=0.9, high=1.0),
            drop=drop,
            p50_ms=None,
            size_bytes=1,
            agreement=None,
            max_logit_diff=None,
        )
        steps.append(step)
    given: Any = SimpleNamespace(run="run", waterfall=steps)
    ticks = [float(found) for found in re.findall(r">(\d+(?:\.\d+)?)</text>", plots.waterfall(given))]
    assert len(ticks) > 2
    assert max(ticks) <= 100
