"""How the loop's cost grows: with image size, classes, batch and data set size, one at a time, small models throughout.

Each point is the real loop (run_epoch, ka+dtd, fp32, CPU) in a process of its own: images a second, the
most memory of its own, and the mapped files it had. Beside it stands its work: FLOPs, and bytes that the operators read
and write. For each axis the exponents of the cost of a sample and of its work are fitted (log-log, least squares), and
every point is flagged whose cost grew by 25 % more than the larger of both since an earlier point. Pieces that
should not depend on something are timed alone. The images lie in files that are memory-mapped, as in training on a CPU.

    python tools/bench/scaling.py --plot recipes/results/scaling.png     all axes; one million images of 32 px take 3 GB
    python tools/bench/scaling.py --data recipes/results/scaling.json --plot recipes/results/scaling.png
    python tools/bench/scaling.py --axis classes --axis batch --rounds 3 --json
"""

import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import matplotlib
import numpy as np
import torch
from harness import in_own_process, json_option, machine, median_seconds, rounds_option, run, show
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from scaling_points import Point, Setting, measure, open_images, write_images

from compress import recipe
from compress.losses.distillation import dynamic_temperature
from compress.system.files import sha256_file, write_json
from compress.training.batch_rows import epoch_order

AXES = {
    "size": [32, 48, 64, 96, 128],
    "classes": [10, 100, 1000, 10_000],
    "batch": [16, 32, 64, 128, 256, 512],
    "samples": [10_000, 100_000, 1_000_000],
}
LABELS = {"size": "pixels a side", "classes": "classes", "batch": "batch", "samples": "training images"}
NOISE = 1.25
ALLOWED = {"constant": 0.15, "linear": 1.15}


def setting_at(axis: str, value: int) -> Setting:
    return replace(Setting(), **{axis: value})


def exponent(values: list[int], costs: list[float]) -> float:
    """The slope of log cost over log value."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def measure_axis(axis: str, values: list[int], folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    found: dict[int, list[Point]] = {value: [] for value in values}
    for number in range(rounds):
        for value in values if number % 2 == 0 else reversed(values):
            setting = setting_at(axis, value)
            path = write_images(folder, samples=setting.samples, size=setting.size)
            found[value].append(in_own_process(measure, setting, path, seconds))
    points = [
        Point(**{name: statistics.median(getattr(p, name) for p in found[value]) for name in asdict(found[value][0])})
        for value in values
    ]
    return summary(axis, values, points)


def summary(axis: str, values: list[int], points: list[Point]) -> dict[str, Any]:
    """The rows of an axis, its exponents, and the points whose cost grew faster than their work."""
    flags = []
    for place in range(1, len(values)):
        excess, first = max((_excess(points[k], points[place]), k) for k in range(place))
        if excess > NOISE:
            flags.append(f"{axis} {values[first]:,} to {values[place]:,}: cost grows {excess:.2f} x as much as work")
    return {
        "axis": axis,
        "rows": [
            {axis: value, "images_per_s": 1 / p.seconds, **asdict(p)} for value, p in zip(values, points, strict=True)
        ],
        "exponents": {
            name: exponent(values, [getattr(p, name) for p in points]) for name in ("seconds", "flops", "bytes_moved")
        },
        "flags": flags,
    }


def _excess(low: Point, high: Point) -> float:
    """How many times more the cost grows than the work, whichever of FLOPs and bytes grows more."""
    work = max(high.flops / low.flops, high.bytes_moved / low.bytes_moved)
    return high.seconds / low.seconds / work


def time_piece(name: str, value: int, folder: Path) -> float:
    """Seconds of one piece; value: of what it may depend on."""
    generator = torch.Generator().manual_seed(0)
    if name.startswith("DTD"):
        rows, classes = (value, 100) if "batch" in name else (128, value)
        student, teacher = torch.randn(2, rows, classes, generator=generator)
        return median_seconds(lambda: dynamic_temperature(student, teacher, kind="flsw", base=4.0), 51)
    path = write_images(folder, samples=value, size=32)
    if name == "an epoch's order":
        return median_seconds(lambda: epoch_order(value, seed=0, epoch=0), 9)
    if name == "opening: SHA-256 of the images":
        return median_seconds(lambda: sha256_file(path), 1)
    images, augment = open_images(path, 100), recipe.Augment(crop=4, flip=True)
    draws = iter(range(1000))

    def draw() -> None:
        epoch = next(draws)
        rows = torch.randint(0, value, (128,), generator=generator)
        images.augmented(rows, augment, seed=0, epoch=epoch)

    return median_seconds(draw, 101)


PIECES = {
    "a batch's draw": ("samples", "constant"),
    "an epoch's order": ("samples", "linear"),
    "opening: SHA-256 of the images": ("samples", "linear"),
    "DTD's temperatures, by batch": ("batch", "linear"),
    "DTD's temperatures, by classes": ("classes", "linear"),
}


def measure_piece(name: str, axes: dict[str, list[int]], folder: Path) -> dict[str, Any]:
    axis, expected = PIECES[name]
    values = axes[axis]
    seconds = [in_own_process(time_piece, name, value, folder) for value in values]
    grows = exponent(values, seconds)
    return {
        "piece": name,
        "axis": axis,
        "values": values,
        "seconds": seconds,
        "exponent": grows,
        "expected": expected,
        "flagged": grows > ALLOWED[expected],
    }


def plot(axes: list[dict[str, Any]], pieces: list[dict[str, Any]], path: Path, caption: str) -> None:
    """Images a second, with what the work alone would allow from the fastest point on, and memory; then the pieces."""
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        columns = max(len(axes), 1)
        figure = Figure(figsize=(2.9 * columns, 6.4 if pieces else 4.6), layout="constrained")
        grid = figure.subplots(3 if pieces else 2, columns, squeeze=False)
        for column, entry in enumerate(axes):
            _plot_axis(grid[0, column], grid[1, column], entry)
        if pieces:
            for column in range(columns):
                grid[2, column].remove()
            below = figure.add_subplot(grid[2, 0].get_subplotspec().get_gridspec()[2, :])
            for piece in pieces:
                label = f"{piece['piece']} ({piece['expected']} at most; found {piece['exponent']:.2f})"
                below.loglog(piece["values"], [1e3 * s for s in piece["seconds"]], "o-", markersize=3, label=label)
            below.set(xlabel="images, batch or classes", ylabel="ms")
            below.legend(loc="upper left", frameon=False, fontsize=8)
            below.grid(alpha=0.3)
        for ax, place in ((grid[0, 0], "lower left"), (grid[1, 0], "upper left")):
            ax.legend(frameon=False, fontsize=8, loc=place)
        grid[0, 0].set_ylabel("images a second")
        grid[1, 0].set_ylabel("memory, MB")
        figure.suptitle(caption, fontsize=9)
        figure.savefig(path, dpi=100)


def _plot_axis(speed: Any, memory: Any, entry: dict[str, Any]) -> None:
    axis, rows = entry["axis"], entry["rows"]
    values = [row[axis] for row in rows]
    work = [max(row["flops"] / rows[0]["flops"], row["bytes_moved"] / rows[0]["bytes_moved"]) for row in rows]
    allowed = [rows[0]["images_per_s"] / grown for grown in work]
    speed.loglog(values, allowed, "--", color="tab:gray", label="if cost grew as work does")
    speed.loglog(values, [row["images_per_s"] for row in rows], "o-", color="tab:blue", label="measured")
    memory.plot(values, [row["own_mb"] for row in rows], "o-", color="tab:blue", label="its own, peak")
    memory.plot(values, [row["mapped_mb"] for row in rows], "s--", color="tab:orange", label="mapped files")
    memory.set(xscale="log", ylim=(0, None))
    exponents = entry["exponents"]
    speed.set_title(
        f"cost of an image ~ {axis}^{exponents['seconds']:.2f}\n"
        f"(FLOPs {exponents['flops']:.2f}, bytes {exponents['bytes_moved']:.2f})",
        fontsize=9,
    )
    low, high = speed.get_ylim()
    middle, half = (low * high) ** 0.5, max((high / low) ** 0.5, 2.0)  # small differences look small
    speed.set_ylim(middle / half, middle * half)
    speed.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    speed.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    for ax in (speed, memory):
        ax.grid(alpha=0.3)
        ax.set_xticks(values, [_short(value) for value in values])
        ax.minorticks_off()
        ax.set_xlabel(LABELS[axis])


def _short(value: int) -> str:
    for unit, name in ((1_000_000, "M"), (1_000, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return str(value)


@click.command()
@click.option("--axis", "names", type=click.Choice(list(AXES)), multiple=True, help="Default: all.")
@click.option("--seconds", default=1.0, show_default=True, help="For each point and round.")
@rounds_option(2)
@click.option("--pieces/--no-pieces", default=True, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="For the images, kept. Default: a temporary one.")
@click.option("--samples", type=click.IntRange(100_000), help="The most images that are tried. Default: a million.")
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="Draw this .json, and measure nothing.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="A .png; its numbers go beside it, as .json.")
@json_option
def main(
    names: tuple[str, ...],
    seconds: float,
    rounds: int,
    pieces: bool,
    folder: Path | None,
    samples: int | None,
    data: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """How the cost of an image grows with the size of the work."""
    if data is not None:
        result = json.loads(data.read_text(encoding="utf-8"))
        facts = result.pop("machine")
    else:
        result, facts = measured(names or tuple(AXES), samples, seconds, rounds, pieces, folder), machine()
    if picture is not None:
        about = f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}"
        plot(result["axes"], result["pieces"], picture, f"compress' loop, {result['setting']}; {about}")
        write_json(picture.with_suffix(".json"), {**result, "machine": facts})
    show(result, _lines(result["axes"], result["pieces"]), as_json=as_json, facts=facts)


def measured(
    names: tuple[str, ...], samples: int | None, seconds: float, rounds: int, pieces: bool, folder: Path | None
) -> dict[str, Any]:
    values = AXES if samples is None else AXES | {"samples": [each for each in AXES["samples"] if each <= samples]}
    with tempfile.TemporaryDirectory() as scratch:
        place = folder or Path(scratch)
        place.mkdir(parents=True, exist_ok=True)
        return {
            "setting": "two narrow ResNet-10-T, ka+dtd, fp32",
            "axes": [measure_axis(name, values[name], place, seconds, rounds) for name in names],
            "pieces": [measure_piece(name, values, place) for name in PIECES] if pieces else [],
        }


def _lines(axes: list[dict[str, Any]], pieces: list[dict[str, Any]]) -> Iterator[str]:
    for entry in axes:
        for row in entry["rows"]:
            yield (
                f"{entry['axis']:<9}{row[entry['axis']]:>10,}{row['images_per_s']:>11,.0f} images/s"
                f"{row['flops'] / 1e6:>10,.1f} MFLOP{row['bytes_moved'] / 1e6:>9,.2f} MB moved an image"
                f"{row['own_mb']:>9,.0f} MB own{row['mapped_mb']:>9,.0f} MB mapped"
            )
        yield f"  exponents: {', '.join(f'{name} {value:.2f}' for name, value in entry['exponents'].items())}"
        yield from (f"  GROWS FASTER THAN ITS WORK: {flag}" for flag in entry["flags"])
    for piece in pieces:
        times = ", ".join(
            f"{_short(v)}: {1e3 * s:.3g} ms" for v, s in zip(piece["values"], piece["seconds"], strict=True)
        )
        flagged = "  MORE THAN EXPECTED" if piece["flagged"] else ""
        yield f"{piece['piece']:<34}exponent {piece['exponent']:.2f}, {piece['expected']} at most  ({times}){flagged}"


if __name__ == "__main__":
    run(main)
