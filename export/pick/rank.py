"""Ranks what was measured: what fits the budget by published top-1, and the nearest where nothing does.

In: a Measured for each architecture. Out: a Row for each, of its fastest file and runtime.
"""

from collections.abc import Collection, Mapping, Sequence

from compress.recipe import Section
from export.pick.published import figure
from export.pick.records import Measured, PrecisionName, RuntimeName, Timing


class Row(Section):
    """An architecture in the runtime and precision in which it is fastest here.

    Attributes:
        model: timm's name. With the tag of the weights where the figure of published.json is theirs.
        fits: whether p90_ms is within the budget.
        p90_ms: 90th percentile of the latency of a batch, with the ends of its 95 % interval.
        top1: published, on ImageNet, in percent, at top1_image_size pixels. None where published.json has none.
        dominated: whether another model is at least as fast and as accurate, and better in one of both.
        own_top1: after an epoch on the user's data, in percent (--with-accuracy).
        int8_convs: of the INT8 file, that ONNX Runtime runs in INT8; float_convs in float.
        timings: in all runtimes and precisions.
    """

    model: str
    fits: bool
    p90_ms: float
    p90_low: float
    p90_high: float
    p50_ms: float
    runtime: RuntimeName
    precision: PrecisionName
    top1: float | None
    top1_image_size: int | None
    own_top1: float | None = None
    dominated: bool = False
    size_mb: float
    params_m: float | None
    macs_m: float | None
    int8_convs: int | None
    float_convs: int | None
    license: str | None
    timings: list[Timing]


def rank(measured: Mapping[str, Measured], runtimes: Collection[RuntimeName], p90_ms: float) -> list[Row]:
    """Rows, the best first: those that fit by top-1, then the others by their latency.

    Args:
        measured: by timm's name, with or without a tag.
        runtimes: in which a model may be deployed.
        p90_ms: the budget.
    """
    rows = [
        _row(name, entry, timings, p90_ms)
        for name, entry in measured.items()
        if (timings := [timing for timing in entry.timings if timing.runtime in runtimes])
    ]
    return in_order([row.model_copy(update={"dominated": _dominated(row, rows)}) for row in rows])


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The best first. What was measured on the user's data comes before what was published."""
    return sorted(
        rows,
        key=lambda row: (not row.fits, *((-(row.own_top1 or 0), -(row.top1 or 0)) if row.fits else ()), row.p90_ms),
    )


def best(rows: Sequence[Row]) -> Row | None:
    """The first that fits."""
    return next((row for row in rows if row.fits), None)


def nearest(rows: Sequence[Row]) -> Row:
    """The fastest: where nothing fits, it misses the budget by the least."""
    return min(rows, key=lambda row: row.p90_ms)


def _row(name: str, entry: Measured, timings: Sequence[Timing], p90_ms: float) -> Row:
    fastest = min(timings, key=lambda timing: timing.p90_ms)
    published = figure(name)
    return Row(
        model=published.model if published else name,
        fits=fastest.p90_ms <= p90_ms,
        p90_ms=fastest.p90_ms,
        p90_low=fastest.p90_low,
        p90_high=fastest.p90_high,
        p50_ms=fastest.p50_ms,
        runtime=fastest.runtime,
        precision=fastest.precision,
        top1=published.top1 if published else None,
        top1_image_size=published.image_size if published else None,
        size_mb=fastest.size_mb,
        params_m=published.params_m if published else None,
        macs_m=entry.macs_m,
        int8_convs=entry.int8_convs,
        float_convs=entry.float_convs,
        license=published.license if published else None,
        timings=list(timings),
    )


def _dominated(row: Row, rows: Sequence[Row]) -> bool:
    return any(
        other.p90_ms <= row.p90_ms
        and (other.top1 or 0) >= (row.top1 or 0)
        and (other.p90_ms, other.top1) != (row.p90_ms, row.top1)
        for other in rows
    )
