"""Timing all models of a benchmark in turns, at each number of threads, batch size and scope.

In: Models and a data set, whose real images are the input. Out: Latency entries by model, and the A/A runs.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch

from compress.data import Dataset
from export.benchmark import latency
from export.benchmark.candidates import STUDENT_FILE, TEACHER, Model, Opened, open_model
from export.benchmark.latency import Series, Timed
from export.benchmark.results import AARun, Interval, Latency, Settings

Scope = Literal["model", "end-to-end"]
SCOPES: tuple[Scope, ...] = ("model", "end-to-end")
INPUTS = 8
_TWIN = " (again)"


def time_models(
    models: Sequence[Model], dataset: Dataset, settings: Settings, say: Callable[[str], None]
) -> tuple[dict[str, list[Latency]], list[AARun]]:
    """All candidates in turns, for each number of threads, batch size and scope; one of them twice, as an A/A run."""
    timed: dict[str, list[Latency]] = {model.name: [] for model in models}
    aa: list[AARun] = []
    names = [model.name for model in models]
    twin = STUDENT_FILE if STUDENT_FILE in names else next(iter(names), None)
    before = torch.get_num_threads()
    try:
        for threads in settings.threads if models else []:
            torch.set_num_threads(threads)
            opened = {model.name: open_model(model, threads) for model in models}
            for batch in settings.batches:
                pixels = _pixels(dataset, batch)
                for scope in SCOPES:
                    calls = [_timed(name, entry, pixels, scope) for name, entry in opened.items()]
                    if twin and scope == "model":
                        calls.append(Timed(twin + _TWIN, *_call_and_clock(calls, twin)))
                    series = latency.interleave(
                        calls, min_seconds=settings.min_seconds, min_runs=settings.min_runs, seed=batch
                    )
                    say(f"timed batch {batch}, {threads} threads, {scope}")
                    for model in models:
                        entry = _latency(model, series, scope, batch, threads)
                        timed[model.name].append(entry)
                    if twin and scope == "model":
                        differs, ratio = latency.differs(series[twin], series[twin + _TWIN])
                        measured = Interval.of(ratio)
                        aa.append(AARun(candidate=twin, batch=batch, threads=threads, ratio=measured, differs=differs))
    finally:
        torch.set_num_threads(before)
    return timed, aa


def _call_and_clock(calls: Sequence[Timed], name: str) -> tuple[latency.Call, latency.Clock]:
    same = next(entry for entry in calls if entry.name == name)
    return same.call, same.clock


def _pixels(dataset: Dataset, batch: int) -> list[np.ndarray]:
    """Real images of the evaluation split, uint8 [batch, H, W, 3]: zeros would flatter kernels that skip them."""
    count = len(dataset.eval_images)
    return [np.asarray(dataset.eval_images[np.arange(n * batch, (n + 1) * batch) % count]) for n in range(INPUTS)]


def _timed(name: str, opened: Opened, pixels: list[np.ndarray], scope: Scope) -> Timed:
    if scope == "end-to-end":
        # The host's clock, whatever the device: transfers both ways are part of it.
        return Timed(name, lambda number: opened.fetch(opened.run(opened.prepare(pixels[number % INPUTS]))))
    prepared = [opened.prepare(batch) for batch in pixels]
    return Timed(name, lambda number: opened.run(prepared[number % INPUTS]), opened.clock)


def _latency(model: Model, series: dict[str, Series], scope: Scope, batch: int, threads: int) -> Latency:
    own = latency.summarise(series[model.name])
    images = latency.Range(*(value * batch for value in own.runs_per_s))
    return Latency(
        scope=scope,
        clock="cuda events" if model.engine and scope == "model" else "host",
        batch=batch,
        threads=threads,
        runs=own.runs,
        seconds=own.seconds,
        p50_ms=Interval.of(own.p50_ms),
        p90_ms=Interval.of(own.p90_ms),
        p99_ms=Interval.of(own.p99_ms) if own.p99_ms else None,
        early_stopping_p90_ms=own.early_stopping_p90_ms,
        images_per_s=Interval.of(images),
        cv=own.cv,
        noisy=own.noisy,
        speedup=Interval.of(latency.ratio(series[TEACHER], series[model.name]))
        if TEACHER in series and model.name != TEACHER
        else None,
    )
