"""`compress pick`: which student fits a latency on this machine.

In: an image size and a budget. Out: a Pick, with a row for each model and a recipe's lines for the best.
"""

import logging
import math
import time
from collections.abc import Collection, Sequence
from typing import Any

from pydantic import Field

from compress.recipe import Section
from compress.system import console
from compress.system.errors import GateError, InputError, UsageError
from compress.system.platform import load_average, usable_cpus
from export.openvino import installed, openvino
from export.pick.cache import Cache
from export.pick.deployed import precisions_of
from export.pick.published import figure, published_models, source
from export.pick.rank import Row, best, nearest, rank
from export.pick.records import BRIEF, LONG, RUNTIMES, Effort, Measured, RuntimeName

logger = logging.getLogger(__name__)

SECONDS_EACH = 18


class Pick(Section):
    """The answer of `pick`.

    Attributes:
        recommended: the model of the best row that fits. None where nothing fits.
        nearest: the fastest model.
        recipe: lines for a recipe, of the recommended model or else of the nearest.
        source: where the published top-1 are from.
        left_out: why there is no row, by model.
    """

    image_size: int
    p90_ms: float
    batch: int
    threads: int
    runtimes: list[RuntimeName]
    machine: dict[str, Any]
    source: dict[str, str]
    recommended: str | None
    nearest: str
    recipe: str
    models: list[Row]
    left_out: dict[str, str] = Field(default={})


def pick_students(
    image_size: int,
    p90_ms: float,
    *,
    runtimes: Collection[RuntimeName] = (),
    threads: int | None = None,
    batch: int = 1,
    models: Sequence[str] = (),
    efforts: tuple[Effort, Effort] = (BRIEF, LONG),
) -> Pick:
    """Measures small architectures on this machine, unless the cache has them, and ranks them.

    Args:
        image_size: pixels a side.
        p90_ms: the budget: the 90th percentile of the latency of a batch, of the model alone.
        runtimes: in which a model may be deployed. Empty for all that are installed.
        threads: None takes what this process may use.
        batch: images in one run.
        models: timm names. Empty for all of published.json.
        efforts: for what is far from the budget, and for what is near.

    Raises:
        UsageError: timm has no such model, or the budget is no number above 0.
        InputError: no model takes images of that size.
        MachineError: a runtime is not installed, or the cache cannot be written.
    """
    check_budget(p90_ms)
    if "openvino" in runtimes:
        openvino()
    chosen: list[RuntimeName] = [name for name in RUNTIMES if name in (runtimes or _installed())]
    names = _architectures(models)
    cache = Cache(image_size, batch, threads or usable_cpus())
    measured = _measured(list(dict.fromkeys(names.values())), chosen, cache, p90_ms, efforts)
    rows = rank({model: measured[name] for model, name in names.items()}, chosen, p90_ms)
    left_out = {
        model: measured[name].error or f"{' and '.join(chosen)} run{'s' * (len(chosen) == 1)} none of its files"
        for model, name in names.items()
        if not {timing.runtime for timing in measured[name].timings}.intersection(chosen)
    }
    if not rows:
        raise InputError(f"no model could be timed: {next(iter(left_out.values()))}")
    found = Pick(
        image_size=image_size,
        p90_ms=p90_ms,
        batch=batch,
        threads=cache.threads,
        runtimes=chosen,
        machine=cache.machine,
        source=source(),
        recommended=None,
        nearest="",
        recipe="",
        models=rows,
        left_out=left_out,
    )
    return with_rows(found, rows)


def check_budget(p90_ms: float) -> None:
    """Raises UsageError where a budget is not finite and above 0: nothing is measured for it."""
    if not (math.isfinite(p90_ms) and p90_ms > 0):
        raise UsageError(f"a budget of {p90_ms} ms means nothing", "Give a finite number above 0, such as 5.")


def with_rows(found: Pick, rows: list[Row]) -> Pick:
    """The answer that follows from the rows, the best first."""
    first, fastest = best(rows), nearest(rows)
    lines = recipe_lines(first or fastest, found.p90_ms, runtimes=found.runtimes, batch=found.batch)
    recommended = first.model if first else None
    return found.model_copy(
        update={"recommended": recommended, "nearest": fastest.model, "recipe": lines, "models": rows}
    )


def cached_rows(image_size: int, p90_ms: float, *, threads: int | None = None) -> list[Row]:
    """Ranks what was measured on this machine before, at batch 1, in the runtimes that are installed."""
    measured = Cache(image_size, 1, threads or usable_cpus()).read()
    return rank({name: entry for name, entry in measured.items() if figure(name)}, _installed(), p90_ms)


def recipe_lines(row: Row, p90_ms: float, *, runtimes: Collection[RuntimeName], batch: int = 1) -> str:
    """Lines to paste into a recipe. The budget is among them where it is of batch 1, as `benchmark.p90_ms` is.

    Args:
        row: of the student.
        p90_ms: the budget.
        runtimes: in which it may be deployed.
        batch: of the budget.
    """
    formats = ["onnx", *(["openvino"] if "openvino" in runtimes else [])]
    limit = f"p90_ms: {p90_ms:g}" if batch == 1 else f"batches: [{batch}]"
    where = f"{row.precision} in {row.runtime}: {row.p90_ms:.2f} ms (p90)"
    published = f", published top-1 {row.top1:.2f} % at {row.top1_image_size} px" if row.top1 else ""
    return (
        f"# fastest here as {where}{published}\n"
        f"student: {{model: {row.model}, pretrained: true}}\n"
        f"export: {{formats: [{', '.join(formats)}], precisions: [{', '.join(precisions_of(row))}]}}\n"
        f"benchmark: {{{limit}}}\n"
    )


def raise_if_none_fits(found: Pick) -> None:
    """Raises GateError where no model is within the budget."""
    if found.recommended is None:
        row = nearest(found.models)
        raise GateError(
            f"no model answers within {found.p90_ms:g} ms: the nearest is {row.model}, {row.p90_ms:.2f} ms as "
            f"{row.precision} in {row.runtime}",
            "Raise --p90-ms, lower --image-size, or allow more --threads.",
        )


def _architectures(models: Sequence[str]) -> dict[str, str]:
    """timm's name without the tag, by the name that the user gave; of published.json without any."""
    if not models:
        return {one.model: one.architecture for one in published_models()}

    from compress.models.registry import known_architecture  # imports torch, which a cached answer does not need

    return {model: known_architecture(model) for model in models}


def _measured(
    names: Sequence[str], runtimes: Sequence[RuntimeName], cache: Cache, p90_ms: float, efforts: tuple[Effort, Effort]
) -> dict[str, Measured]:
    """What the cache has of the architectures, after what it lacks was measured."""
    known = cache.read()
    missing = [name for name in names if name not in known or any(known[name].lacks(one, p90_ms) for one in runtimes)]
    if missing:
        from export.pick.measure import measure

        logger.info(
            f"{len(missing)} of {len(names)} models to export and time at {cache.image_size} pixels, "
            f"about {console.duration(SECONDS_EACH * len(missing))} on two idle cores"
        )
        if (load := load_average() or 0.0) > usable_cpus() / 2:
            logger.warning(f"this machine is busy (load {load:.1f}): what it disturbs is measured again the next time")
        began = time.perf_counter()
        measure(missing, runtimes, cache, p90_ms=p90_ms, efforts=efforts)
        logger.info(f"measured in {console.duration(time.perf_counter() - began)}")
        known = cache.read()
    logger.info(f"measurements of this machine: {cache.path} (remove it to measure anew)")
    return {name: known[name] for name in names}


def _installed() -> list[RuntimeName]:
    return [name for name in RUNTIMES if name == "onnxruntime" or installed()]
