"""Timing all candidates of a benchmark in turns, at each number of threads, batch size and scope.

In: Candidates and the images of the evaluation split. Out: Latency entries by candidate, and the A/A runs.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch

from compress.system.errors import CompressError
from export.benchmark import latency
from export.benchmark.candidates import STUDENT_FILE, Candidate, Role
from export.benchmark.latency import Series, Timed
from export.benchmark.opened import Opened, open_candidate
from export.benchmark.results import AARun, Interval, Latency, LikeForLike, Reference, Settings

logger = logging.getLogger(__name__)

Scope = Literal["model", "end-to-end"]
SCOPES: tuple[Scope, ...] = ("model", "end-to-end")
INPUTS = 8
_TWIN = " (again)"


def time_candidates(
    candidates: Sequence[Candidate], images: Mapping[Role, np.ndarray], settings: Settings, reference: Reference
) -> tuple[dict[str, list[Latency]], list[AARun], dict[str, str]]:
    """Times all candidates in turns, for each number of threads, batch size and scope. One goes twice, as an A/A run.

    Args:
        images: uint8 [N, H, W, 3], as teacher and student see them.
        reference: the candidate over which speedups are, where it is among them.

    Returns:
        The entries by candidate, the A/A runs, and why a candidate could not be timed at a batch, or at all.
    """
    failed: dict[str, str] = {}
    timed: dict[str, list[Latency]] = {candidate.name: [] for candidate in candidates}
    aa: list[AARun] = []
    names = list(timed)
    twin = STUDENT_FILE if STUDENT_FILE in names else next(iter(names), None)
    before = torch.get_num_threads()
    try:
        for threads in settings.threads if candidates else []:
            torch.set_num_threads(threads)
            opened: dict[str, Opened] = {}
            for candidate in candidates:
                with _alone(candidate.name, failed):
                    opened[candidate.name] = open_candidate(candidate, threads)
            for batch in settings.batches:
                pixels = {role: _pixels(seen, batch) for role, seen in images.items()}
                for scope in SCOPES:
                    calls: list[Timed] = []
                    for name, entry in opened.items():
                        with _alone(name, failed, f"batch {batch}: "):
                            calls.append(_timed(name, entry, pixels[entry.candidate.role], scope))
                    if not calls:
                        continue
                    present = {entry.name for entry in calls}
                    again = twin if twin in present and scope == "model" else None
                    if again:
                        calls.append(Timed(again + _TWIN, *_call_and_clock(calls, again)))
                    series = latency.interleave(
                        calls, min_seconds=settings.min_seconds, min_runs=settings.min_runs, seed=batch
                    )
                    logger.info(f"timed batch {batch}, {threads} threads, {scope}")
                    for candidate in (each for each in candidates if each.name in present):
                        over = reference, like_for_like(candidate, candidates)
                        own = _latency(candidate, series, over, scope, batch, threads)
                        timed[candidate.name].append(own)
                    if again:
                        differs, ratio = latency.differs(series[again], series[again + _TWIN])
                        measured = Interval.of(ratio)
                        aa.append(AARun(candidate=again, batch=batch, threads=threads, ratio=measured, differs=differs))
    finally:
        torch.set_num_threads(before)
    return timed, aa, failed


@contextlib.contextmanager
def _alone(name: str, failed: dict[str, str], where: str = "") -> Iterator[None]:
    """A candidate that does not open here, or does not take a batch, leaves the others."""
    try:
        yield
    except CompressError as error:
        failed.setdefault(name, f"{where}{error.message}")


def _call_and_clock(calls: Sequence[Timed], name: str) -> tuple[latency.Call, latency.Clock]:
    same = next(entry for entry in calls if entry.name == name)
    return same.call, same.clock


def _pixels(images: np.ndarray, batch: int) -> list[np.ndarray]:
    """Real images of the evaluation split, uint8 [batch, H, W, 3]: zeros would flatter kernels that skip them."""
    return [np.asarray(images[np.arange(n * batch, (n + 1) * batch) % len(images)]) for n in range(INPUTS)]


def _timed(name: str, opened: Opened, pixels: list[np.ndarray], scope: Scope) -> Timed:
    if scope == "end-to-end":
        # The host's clock, whatever the device: transfers both ways are part of it.
        made = Timed(name, lambda number: opened.answer(pixels[number % INPUTS]))
    else:
        prepared = [opened.prepare(batch) for batch in pixels]
        made = Timed(name, lambda number: opened.run(prepared[number % INPUTS]), opened.clock)
    made.call(0)  # what does not run is known before others are timed beside it
    return made


def like_for_like(candidate: Candidate, candidates: Sequence[Candidate]) -> str | None:
    """The teacher's file that a student's file is fairly compared with: what exporting the teacher would have given.

    It is the one in the same runtime with the same precision, else with FP32. For an engine it is else the teacher in
    torch on the same GPU. None where there is none.
    """
    if candidate.role != "student" or candidate.module is not None:
        return None
    of_teacher = {
        other.precision: other.name
        for other in candidates
        if other.role == "teacher" and other.runtime == candidate.runtime and other.module is None
    }
    in_torch = next((other.name for other in candidates if other.role == "teacher" and other.on_gpu), None)
    return of_teacher.get(candidate.precision, of_teacher.get("fp32", in_torch if candidate.engine else None))


def _latency(
    candidate: Candidate,
    series: dict[str, Series],
    over: tuple[Reference, str | None],
    scope: Scope,
    batch: int,
    threads: int,
) -> Latency:
    """over: the reference, and the file that it is like for like with."""
    name = candidate.name
    own = latency.summarise(series[name])
    images = latency.Range(*(value * batch for value in own.runs_per_s))
    told = not series[name].contended
    reference, like = over
    return Latency(
        scope=scope,
        clock="cuda events" if candidate.device == "cuda" and scope == "model" else "host",
        batch=batch,
        threads=threads,
        runs=own.runs,
        seconds=own.seconds,
        p50_ms=Interval.of(own.p50_ms),
        p90_ms=Interval.of(own.p90_ms),
        p99_ms=Interval.of(own.p99_ms) if own.p99_ms else None,
        early_stopping_p90_ms=own.early_stopping_p90_ms,
        images_per_s=Interval.of(images),
        mad_ms=own.mad_ms,
        noisy=own.noisy,
        busy=series[name].busy,
        speedup=_factor(series, reference, name) if told and reference in series and name != reference else None,
        like_for_like=LikeForLike(reference=like, speedup=_factor(series, like, name))
        if told and like in series
        else None,
    )


def _factor(series: dict[str, Series], reference: str, name: str) -> Interval:
    return Interval.of(latency.ratio(series[reference], series[name]))
