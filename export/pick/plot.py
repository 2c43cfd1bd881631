"""The plot of `pick`: published accuracy against milliseconds, and which models are dominated.

In: a Pick. Out: a PNG, SVG or PDF file.
"""

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from compress.system import files
from compress.system.errors import UsageError
from export.pick.rank import Row
from export.pick.run import Pick

_MARKERS = {"fp32": "s", "bf16": "^", "int8": "o"}
_COLOURS = {"onnxruntime": "#2a6fb0", "openvino": "#c8553d"}
_KINDS = (".png", ".svg", ".pdf")
_STYLE: dict[Any, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "pick"}


def check_plot_file(path: Path) -> None:
    """Raises UsageError where the name does not end like a picture."""
    if path.suffix.lower() not in _KINDS:
        raise UsageError(f"--plot {path}: the name must end in {', '.join(_KINDS)}", "For example: --plot pick.png.")


def write_plot(found: Pick, path: Path) -> None:
    """Draws every model with a published top-1. Those that another one dominates are pale.

    Raises:
        MachineError: the file cannot be written.
    """
    rows = sorted((row for row in found.models if row.top1 is not None), key=lambda row: row.p90_ms)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 5.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for row in rows:
            axes.scatter(
                row.p90_ms,
                row.top1 or 0,
                marker=_MARKERS[row.precision],
                color=_COLOURS[row.runtime],
                alpha=0.3 if row.dominated else 1.0,
                s=36,
                zorder=3,
            )
        front = [row for row in rows if not row.dominated]
        axes.step([row.p90_ms for row in front], [row.top1 or 0 for row in front], where="post", color="#999", lw=1)
        _name(axes, front)
        axes.axvline(found.p90_ms, color="#444", lw=1, ls="--")
        axes.set_xscale("log")
        axes.set_xlim(left=rows[0].p90_ms / 2 if rows else None)  # room for the name of the fastest
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(color="#ddd", lw=0.6)
        axes.set_xlabel(
            f"90th percentile in ms, {found.image_size} px, batch {found.batch}, "
            f"{found.threads} thread{'s' * (found.threads > 1)}"
        )
        axes.set_ylabel("published ImageNet top-1 in %")
        axes.set_title(f"Left of the dashed line fits {found.p90_ms:g} ms; pale: another is faster and better", size=10)
        _legend(axes, rows)
        with files.replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=120)


def _name(axes: Axes, front: list[Row]) -> None:
    """Names the models that nothing dominates, in turn above and below their points."""
    for number, row in enumerate(front):
        above = number % 2 == 0
        axes.annotate(
            row.model.split(".")[0],
            (row.p90_ms, row.top1 or 0),
            xytext=(-4, 6) if above else (6, -6),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            size=8,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def _legend(axes: Axes, rows: list[Row]) -> None:
    seen = sorted({(row.runtime, row.precision) for row in rows})
    for runtime, precision in seen:
        axes.scatter([], [], marker=_MARKERS[precision], color=_COLOURS[runtime], label=f"{precision} in {runtime}")
    axes.legend(frameon=False, loc="lower right")
