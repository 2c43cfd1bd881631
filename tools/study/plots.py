"""The plots of a study, as PNGs on white.

In: what results.collect returned. Out: PNG bytes by title, and the samples of the plot of temperatures. A plot for
which nothing was measured is left out.
"""

import io
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# The colours of the report's light page (export/report/templates/style.css.j2).
_INK, _LINE, _STUDENT, _GOOD, _BAD = "#1c2330", "#d5dae1", "#1668c7", "#1a7f4b", "#c6362c"
_SERIES = ("#1668c7", "#c6362c", "#1a7f4b", "#8a5cc2", "#8f6100", "#1c2330")
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 9,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}
_SCATTERED = 1000  # points of an arm
_CAUSES = {"cosine": "cosine of the logits of student and teacher", "confidence": "student's confidence"}
_COLUMNS = 6

CAPTIONS = {
    "differences": "Student top-1 less that of the baseline with the same seed: mean, 95 % interval, and every "
    "seed; green and red where Holm's p is below 0.05.",
    "measures": "Agreement with the teacher and calibration on the evaluation split: mean, and every seed.",
    "temperature": "DTD's temperature over the epochs: mean over samples and seeds; the band from the smallest to the "
    "largest of a batch.",
    "adjusted": "The part of the training rows that KA changes: those of augmented train where the teacher's top class "
    "is not the label.",
    "confusion": "Each sample's temperature against what it follows from, of finished students on training batches; "
    "right is what agrees with the label as it was trained on.",
}
MEASURES_SHOWN = {"agreement": "agreement with the teacher, %", "ece": "ECE, %", "nll": "NLL, nats"}


def plots(content: Mapping[str, Any]) -> dict[str, bytes]:
    drawn: dict[str, Callable[[Mapping[str, Any]], Figure | None]] = {
        "differences": _differences,
        "measures": _measures,
        "temperature": _temperature,
        "adjusted": _adjusted,
        "confusion": _confusion,
    }
    found = {}
    with matplotlib.rc_context(_STYLE):
        for title, draw in drawn.items():
            if (figure := draw(content)) is not None:
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
                found[title] = buffer.getvalue()
    return found


def shown(measures: Mapping[str, Any], key: str) -> float:
    """A measure of a run in the unit that MEASURES_SHOWN names."""
    student = measures["student"]
    return {
        "agreement": 100 * measures["agreement"]["value"],
        "ece": 100 * student["ece"],
        "nll": student["nll"]["value"],
    }[key]


def _differences(content: Mapping[str, Any]) -> Figure | None:
    settings = content["settings"]
    figure, panels = _panels(1, len(settings), height=0.9 + 0.3 * _arms(content))
    for axes, (name, setting) in zip(panels[0], settings.items(), strict=True):
        comparison = setting["comparison"]
        top1 = {(run["arm"], run["seed"]): run["student_top1"] for run in setting["runs"]}
        arms = [arm for arm in comparison["arms"] if arm["name"] != content["baseline"]]
        for place, arm in enumerate(arms):
            found = arm["difference"]
            if found is None:
                continue
            each = [100 * (top1[arm["name"], seed] - top1[content["baseline"], seed]) for seed in found["seeds"]]
            axes.plot(each, [place] * len(each), "o", color=_INK, alpha=0.35, markersize=4, markeredgewidth=0)
            sure = found["holm_p"] is not None and found["holm_p"] < 0.05
            color = (_GOOD if found["mean"] > 0 else _BAD) if sure else _STUDENT
            if found["interval"] is not None:
                axes.plot(
                    [100 * found["interval"][end] for end in ("low", "high")], [place] * 2, color=color, linewidth=1.5
                )
            axes.plot(100 * found["mean"], place, "D", color=color, markersize=6)
        axes.axvline(0, color=_INK, linewidth=0.8)
        _rows(axes, [arm["name"] for arm in arms])
        axes.set_title(name)
        axes.set_xlabel(f"top-1 against {content['baseline']}, points")
    return figure


def _measures(content: Mapping[str, Any]) -> Figure | None:
    settings = {
        name: each for name, each in content["settings"].items() if any(run["measures"] for run in each["runs"])
    }
    if not settings:
        return None
    figure, panels = _panels(len(settings), len(MEASURES_SHOWN), height=0.9 + 0.27 * _arms(content))
    for row, (name, setting) in zip(panels, settings.items(), strict=True):
        arms = [arm["name"] for arm in setting["comparison"]["arms"]]
        for axes, (key, label) in zip(row, MEASURES_SHOWN.items(), strict=True):
            for place, arm in enumerate(arms):
                each = [shown(run["measures"], key) for run in setting["runs"] if run["arm"] == arm and run["measures"]]
                axes.plot(each, [place] * len(each), "o", color=_STUDENT, alpha=0.5, markersize=5, markeredgewidth=0)
                if each:
                    axes.plot([mean(each)] * 2, [place - 0.3, place + 0.3], color=_INK, linewidth=1.5)
            _rows(axes, arms)
            axes.set_xlabel(label)
        row[0].set_title(name, loc="left")
    return figure


def _temperature(content: Mapping[str, Any]) -> Figure | None:
    found = {
        name: _by_arm(setting["runs"], lambda run: "dtd-" in run["method"])
        for name, setting in content["settings"].items()
    }
    arms = {name: by_arm for name, by_arm in found.items() if by_arm}
    if not arms:
        return None
    figure, panels = _panels(1, len(arms), height=3.0)
    for axes, (name, by_arm) in zip(panels[0], arms.items(), strict=True):
        lines = itertools.product(("-", "--"), _SERIES)
        for (style, color), (arm, runs) in zip(lines, by_arm.items(), strict=False):
            epochs = [line["epoch"] + 1 for line in runs[0]]
            low, middle, high = (_mean(runs, f"temperature_{which}") for which in ("min", "mean", "max"))
            axes.plot(epochs, middle, style, color=color, label=arm, marker=".")
            axes.plot(epochs, np.stack([low, high], axis=1), color=color, linewidth=0.8, alpha=0.6)
            axes.fill_between(epochs, low, high, color=color, alpha=0.08, linewidth=0)
        _epochs(axes, name, "temperature")
        axes.set_ylim(top=(1 + 0.12 * max(3, math.ceil(len(by_arm) / 2))) * axes.get_ylim()[1])  # room for the legend
        axes.legend(fontsize=8, loc="upper left", ncols=2)
    return figure


def _adjusted(content: Mapping[str, Any]) -> Figure | None:
    """One line a setting: runs of one seed meet the same rows, whatever their arm."""
    figure, panels = _panels(1, 1, height=2.8)
    axes = panels[0][0]
    for color, (name, setting) in zip(_SERIES, content["settings"].items(), strict=False):
        by_arm = _by_arm(setting["runs"], lambda run: run["method"].startswith("ka-"))
        if runs := [run for runs in by_arm.values() for run in runs]:
            epochs = [line["epoch"] + 1 for line in max(runs, key=len)]
            axes.plot(epochs, 100 * _mean(runs, "adjusted"), color=color, label=name, marker=".")
    if not axes.lines:
        return None
    _epochs(axes, "", "rows that KA changes, %")
    axes.set_ylim(0, 1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left", ncols=3)
    return figure


def _by_arm(
    runs: Sequence[Mapping[str, Any]], wanted: Callable[[Mapping[str, Any]], bool]
) -> dict[str, list[list[dict[str, Any]]]]:
    """The epochs of the runs that are wanted, by arm."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for run in filter(wanted, runs):
        found.setdefault(run["arm"], []).append(run["epochs"])
    return found


def _mean(runs: Sequence[Sequence[Mapping[str, Any]]], key: str) -> np.ndarray:
    """Of each epoch, over the runs that have it: arms may differ in length."""
    lines = itertools.zip_longest(*runs)
    return np.array([np.mean([line[key] for line in each if line is not None]) for each in lines])


def _epochs(axes: Axes, title: str, label: str) -> None:
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)


def confusion(content: Mapping[str, Any]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """The samples of the plot by setting and "SETTING: ARM", of the first seed's student of each DTD arm.

    Beside each temperature stands what it follows from: the cosine for flsw, the confidence for cwsm.
    """
    found = {}
    for name, setting in content["settings"].items():
        runs = {run["arm"]: run for run in reversed(setting["runs"]) if (run["measures"] or {}).get("temperatures")}
        found[name] = {
            f"{name}: {arm}": {
                key: run["measures"]["temperatures"][key][:_SCATTERED]
                for key in ("confidence" if "cwsm" in run["method"] else "cosine", "temperature", "right")
            }
            for arm, run in reversed(runs.items())
        }
    return found


def _confusion(content: Mapping[str, Any]) -> Figure | None:
    rows = []
    for arms in confusion(content).values():
        each = list(arms.items())
        rows += [each[start : start + _COLUMNS] for start in range(0, len(each), _COLUMNS)]
    if not rows:
        return None
    figure, panels = _panels(len(rows), max(map(len, rows)), height=2.6)
    for row, each in zip(panels, rows, strict=True):
        for axes in row[len(each) :]:
            axes.remove()
        for axes, (title, points) in zip(row, each, strict=False):
            cause = next(key for key in _CAUSES if key in points)
            x, y, right = (np.array(points[key]) for key in (cause, "temperature", "right"))
            axes.scatter(x, y, s=5, c=np.where(right == 1, _STUDENT, _BAD), alpha=0.4, linewidths=0)
            for color, label in ((_STUDENT, "student right"), (_BAD, "student wrong")):
                axes.scatter([], [], s=5, color=color, label=label)
            axes.set_title(title)
            axes.set_xlabel(_CAUSES[cause])
            axes.set_ylabel("temperature")
        row[0].legend(fontsize=8, markerscale=2)
    return figure


def _arms(content: Mapping[str, Any]) -> int:
    return max(len(setting["comparison"]["arms"]) for setting in content["settings"].values())


def _rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _panels(rows: int, columns: int, *, height: float) -> tuple[Figure, np.ndarray]:
    """height: of a row, in inches."""
    figure = Figure((max(4.8, 3.4 * columns), height * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)
