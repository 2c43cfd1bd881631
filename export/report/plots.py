"""The plots of a report, as inline SVG that follows the page's colours, light or dark.

In: a Benchmark and the lines of metrics.jsonl. Out: SVG text. Colours stand in for variables of the page's CSS.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import Bbox

from export.benchmark import AccuracyResult, Benchmark, ClassChange, Latency
from export.report.reference import reference_words
from export.report.svg import inline_svg
from export.report.sweep_results import Sweep

# Stand-ins; matplotlib knows no CSS variables.
_INK, _LINE, _TEACHER, _STUDENT, _GOOD, _BAD = (f"#0{n}0{n}0{n}" for n in range(1, 7))
_CSS = {
    _INK: "currentColor",
    _LINE: "var(--line)",
    _TEACHER: "var(--teacher)",
    _STUDENT: "var(--student)",
    _GOOD: "var(--good)",
    _BAD: "var(--bad)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # names of classes may hold $
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
# Narrow, so that the text keeps its size on a phone.
_WIDTH = 4.8
CLASSES_SHOWN = 20
_LABELS = 8


def primary_latency(benchmark: Benchmark, name: str) -> Latency | None:
    """What every plot shows of a candidate. None where it was not run."""
    return benchmark.primary_latency(name)


def pareto(benchmark: Benchmark) -> str:
    """SVG: accuracy against median latency, with both intervals. A line joins the Pareto set."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.4)
        points = {}
        for entry in benchmark.candidates:
            timed = primary_latency(benchmark, entry.name)
            if timed is None or not isinstance(entry.accuracy, AccuracyResult):
                continue
            top1, p50 = entry.accuracy.top1, timed.p50_ms
            points[entry.name] = (p50.value, 100 * top1.value)
            axes.errorbar(
                p50.value,
                100 * top1.value,
                xerr=[[p50.value - p50.low], [p50.high - p50.value]],
                yerr=[[100 * (top1.value - top1.low)], [100 * (top1.high - top1.value)]],
                fmt="s" if entry.role == "teacher" else "o",
                color=_TEACHER if entry.role == "teacher" else _STUDENT,
                elinewidth=0.8,
                markersize=6,
            )[2][1].set_alpha(0.5)
        front = [points[name] for name in benchmark.verdict.pareto if name in points]
        axes.plot(*zip(*front, strict=True), color=_GOOD, linewidth=1.2, zorder=1) if front else None
        axes.set_xscale("log")
        axes.margins(0.2, 0.25)
        batch, threads = benchmark.settings.batches[0], benchmark.settings.threads[0]
        axes.set_xlabel(f"median latency, ms (batch {batch}, threads {threads})")
        axes.set_ylabel("top-1, %")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        named = _named(benchmark, points)
        _label(axes, {name.removesuffix(".onnx"): points[name] for name in named}, list(points.values()))
        return inline_svg(figure, f"pareto {benchmark.run}", "Top-1 accuracy against latency of every model", _CSS)


def _named(benchmark: Benchmark, points: Mapping[str, object]) -> list[str]:
    """What is named in the plot: all, or where that is too much what a decision is about."""
    if len(points) <= _LABELS:
        return list(points)
    recommended = benchmark.verdict.recommended
    wanted = {recommended, *benchmark.verdict.pareto}
    wanted |= {entry.name for entry in benchmark.candidates if entry.runtime == "torch"}
    timed = None if recommended is None else primary_latency(benchmark, recommended)
    if timed is not None and timed.like_for_like is not None:
        wanted.add(timed.like_for_like.reference)
    return [name for name in points if name in wanted]


def _label(axes: Axes, named: Mapping[str, tuple[float, float]], points: Sequence[tuple[float, float]]) -> None:
    """Writes each name above or below its point, as near as it goes without covering a name or another point."""
    axes.get_figure(root=True).draw_without_rendering()  # type: ignore[union-attr]
    places = axes.transData.transform(points) if points else []
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in places]
    for name, point in sorted(named.items(), key=lambda item: item[1]):
        own = axes.annotate(name, point, (0, 0), textcoords="offset points", ha="center", fontsize=8)
        for line in range(12):
            own.set_position((0, 7 + 10 * (line // 2) if line % 2 == 0 else -15 - 10 * (line // 2)))
            if not any(own.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(own.get_window_extent())


def waterfall(benchmark: Benchmark) -> str:
    """SVG: what each step loses or gains of top-1 in points, from where the step before it ended."""
    steps = benchmark.waterfall
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.0)
        for place, step in enumerate(steps):
            level = 100 * step.top1.value
            if step.drop is None:
                color = _TEACHER if step.candidate == "teacher.torch" else _STUDENT
                axes.plot([place - 0.4, place + 0.4], [level, level], color=color, linewidth=3)
            else:
                drop, low, high = (100 * value for value in (step.drop.value, step.drop.low, step.drop.high))
                before = level + drop
                axes.plot([place - 0.6, place - 0.4], [before, before], color=_LINE, linewidth=1)
                axes.bar(place, -drop, bottom=before, width=0.8, color=_BAD if drop > 0 else _GOOD)
                axes.plot([place - 0.4, place + 0.4], [level, level], color=_STUDENT, linewidth=3)
                axes.errorbar(
                    place, level, yerr=[[high - drop], [drop - low]], color=_INK, elinewidth=0.8, capsize=3, fmt="none"
                )
            loss = "" if step.drop is None else f"\n{_signed(-100 * step.drop.value)}"
            axes.annotate(
                f"{level:.2f} %{loss}", (place, 0.02), xycoords=("data", "axes fraction"), ha="center", fontsize=8
            )
        axes.set_xticks(range(len(steps)), [step.name for step in steps])
        axes.grid(axis="x", visible=False)
        axes.use_sticky_edges = False  # bars would otherwise cut the margin off
        axes.margins(y=0.1)
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom - 0.3 * (top - bottom), min(top, 100.0))
        axes.set_ylabel("top-1, %")
        names = ", ".join(step.name for step in steps)
        return inline_svg(figure, f"waterfall {benchmark.run}", f"Top-1 accuracy after each step: {names}", _CSS)


def curves(run: str, metrics: Sequence[dict[str, Any]]) -> str:
    """Accuracy on the evaluation split after each epoch of teacher and student."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.0)
        for phase, color in (("teacher", _TEACHER), ("student", _STUDENT)):
            lines = [line for line in metrics if line["phase"] == phase and "eval_top1" in line]
            if lines:
                epochs = [line["epoch"] + 1 for line in lines]
                axes.plot(epochs, [100 * line["eval_top1"] for line in lines], color=color, label=phase)
        if not axes.lines:
            axes.annotate("not trained here", (0.5, 0.5), xycoords="axes fraction", ha="center")
        else:
            axes.legend(loc="lower right")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch")
        axes.set_ylabel("top-1, %")
        return inline_svg(figure, f"curves {run}", "Top-1 accuracy over the epochs of training", _CSS)


def reliability(benchmark: Benchmark) -> str:
    """SVG: accuracy against confidence, of the reference and the recommended file. A point's area is its images."""
    color = _TEACHER if benchmark.reference == "teacher.torch" else _INK
    shown = [(benchmark.reference, color), (benchmark.verdict.recommended or "student.torch", _STUDENT)]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(3.4)
        axes.plot([0, 100], [0, 100], color=_LINE, linewidth=1)
        for name, color in shown:
            score = benchmark.candidate(name).accuracy
            if not isinstance(score, AccuracyResult):
                continue
            x = [100 * entry.confidence for entry in score.reliability]
            y = [100 * entry.accuracy for entry in score.reliability]
            label = f"{name.removesuffix('.onnx')}, ECE {100 * score.ece:.1f} %"
            axes.plot(x, y, color=color, linewidth=1.2, alpha=0.4, label=label)
            sizes = [8 + 150 * entry.images / score.images for entry in score.reliability]
            axes.scatter(x, y, s=sizes, color=color, linewidths=0)
        axes.legend(loc="lower right", fontsize=8)
        axes.set_xlabel("confidence, %")
        axes.set_ylabel("accuracy, %")
        return inline_svg(figure, f"reliability {benchmark.run}", "Accuracy against confidence", _CSS)


def classes(benchmark: Benchmark) -> str:
    """SVG: change of accuracy by class in points. Where there are many, the worst and the best."""
    rows: list[ClassChange | None] = list(benchmark.classes)
    if len(rows) > CLASSES_SHOWN:
        rows = [*rows[: CLASSES_SHOWN // 2], None, *rows[-CLASSES_SHOWN // 2 :]]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(0.9 + 0.19 * max(len(rows), 4))
        for place, row in enumerate(rows):
            if row is not None:
                change, low, high = (-100 * value for value in (row.drop.value, row.drop.high, row.drop.low))
                axes.barh(place, change, color=_BAD if change < 0 else _GOOD)
                axes.errorbar(
                    change,
                    place,
                    xerr=[[change - low], [high - change]],
                    color=_INK,
                    elinewidth=0.6,
                    alpha=0.7,
                    fmt="none",
                )
        names = [_short(row.name) if row else "…" for row in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(0, color=_INK, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"change of accuracy against {reference_words(benchmark.reference).the}, points")
        return inline_svg(figure, f"classes {benchmark.run}", "Change of accuracy of each class, the worst first", _CSS)


def dots(sweep: Sweep) -> str:
    """SVG: each run's top-1 as a dot in the row of its arm, the arm's mean as a stroke, the teacher as a line."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(1.0 + 0.32 * len(sweep.arms))
        for place, arm in enumerate(sweep.arms):
            top1 = [
                100 * run.student_top1 for run in sweep.runs if run.arm == arm.name and run.student_top1 is not None
            ]
            axes.plot(top1, [place] * len(top1), "o", color=_STUDENT, alpha=0.6, markersize=6, markeredgewidth=0)
            if arm.mean is not None:
                axes.plot([100 * arm.mean] * 2, [place - 0.3, place + 0.3], color=_INK, linewidth=2)
        teachers = {run.teacher_top1 for run in sweep.runs if run.teacher_top1 is not None}
        if len(teachers) == 1:
            top1 = 100 * teachers.pop()
            axes.axvline(top1, color=_TEACHER, linestyle="--", linewidth=1)
            above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
            axes.annotate("teacher", (top1, 1), (0, 3), **above, fontsize=8, color=_TEACHER)
        axes.set_yticks(range(len(sweep.arms)), [_middle_cut(arm.name) for arm in sweep.arms], fontsize=8)
        axes.set_ylim(len(sweep.arms) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("top-1, %")
        return inline_svg(figure, f"dots {sweep.recipe}", "Top-1 accuracy of every run, by arm", _CSS)


def _short(name: str) -> str:
    return name if len(name) <= 16 else name[:15] + "…"


def _middle_cut(name: str) -> str:
    """Arms begin alike: what tells them apart is at the end."""
    return name if len(name) <= 32 else f"{name[:12]}…{name[-19:]}"


def _signed(points: float) -> str:
    return f"{points:+.2f}" if round(points, 2) else "±0"


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure((_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes
