"""A finished run and its export in; benchmark.json out: accuracy, latency, memory, comparisons and the verdict.

It reads top to bottom: find the candidates, score each once, time them in turns, judge them, write it all down.
"""

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.runs.data import data_of_student, data_of_teacher
from compress.runs.folder import Run, finished_run, now
from compress.runs.locks import held
from compress.system.arguments import require_each, require_type
from compress.system.errors import UsageError
from compress.system.platform import usable_cpus
from export.benchmark import latency, scoring
from export.benchmark.bundled import other_defaults
from export.benchmark.candidates import (
    RUNTIMES,
    Candidate,
    Role,
    find_candidates,
    reason_not_timed,
    reference_of,
    try_evaluate,
)
from export.benchmark.executions import gates
from export.benchmark.file import write_benchmark
from export.benchmark.limits import GATES, limits_of
from export.benchmark.machine import this_machine
from export.benchmark.results import AccuracyResult, Benchmark, NotRun, Settings
from export.benchmark.summary import Measured, candidate_result, judged, summary
from export.benchmark.teacher_files import make_teacher_files
from export.benchmark.timing import SCOPES, time_candidates
from export.folder import given_run, read_export
from export.onnx import default_threads
from export.openvino import openvino

logger = logging.getLogger(__name__)


def benchmark_run(
    run: Run | str | Path,
    *,
    runtimes: Sequence[str] = (),
    batches: Sequence[int] = (),
    threads: Sequence[int] = (),
    min_seconds: float = latency.MIN_SECONDS,
    min_runs: int = latency.MIN_RUNS,
    student: nn.Module | None = None,
    teacher: nn.Module | None = None,
    overrides: Sequence[str] = (),
) -> Benchmark:
    """Measures a finished run and its export, judges it, and writes RUN/benchmark.json.

    All is compared with the teacher. One that has no last layer answers nothing, and the student in torch takes its
    place.

    Args:
        run: a finished run that was exported, or its folder.
        runtimes: which are timed, of torch, ort, openvino and trt. Empty: all that are installed.
        batches: batch sizes. Empty: the recipe's benchmark.batches. The smallest is the one of plots and verdict.
        threads: numbers of threads. Empty: what this process may use. The first is the one of plots and verdict.
        min_seconds: the least time for each latency, in seconds.
        min_runs: the fewest runs for each latency, unless they take more than four times `min_seconds`.
        student: a module to fill with the student's weights, where `distill` was given one.
        teacher: the same for the teacher.
        overrides: as for --set. "benchmark.key=value": limits of the verdict instead of the recipe's.
            "export.key=value": what a file may lose, instead of the limits by which the files were exported.

    Returns:
        What benchmark.json holds. Accuracies are fractions, times milliseconds.

    Raises:
        UsageError: an argument means nothing.
        InputError: the run is not finished or not exported, files were altered, or the data is not that of the run.
        MachineError: another process is using the run, or OpenVINO is named and not installed.
    """
    _check_types(runtimes, batches, threads, min_seconds, min_runs, overrides, student, teacher)
    if not math.isfinite(min_seconds):
        raise UsageError(f"{min_seconds} seconds cannot be measured", "Give a number, such as 3.")
    started, clock = now(), time.perf_counter()
    run = finished_run(given_run(run).path)
    machine = this_machine()
    limits = limits_of(run, overrides)
    settings = Settings(
        runtimes=list(runtimes) or list(RUNTIMES),
        batches=sorted(set(batches or limits.verdict.batches)),
        threads=list(dict.fromkeys(threads)) or [default_threads()],
        min_seconds=min_seconds,
        min_runs=min_runs,
        limits=limits.verdict.model_dump(exclude={"batches"}),
        gates={key: getattr(limits.gates, key) for key in GATES},
    )
    _check(settings)
    if "openvino" in runtimes:
        openvino()
    engines = "trt" in settings.runtimes and torch.cuda.is_available()
    with held(run.path):
        reference = reference_of(run)
        if not run.result.teacher_classifies:
            logger.info(f"the teacher has no last layer, so its student's files are compared with {reference}")
        elif {"ort", "openvino"} & set(settings.runtimes) or engines:
            make_teacher_files(run, teacher, threads=settings.threads[0], engines=engines)
        candidates = find_candidates(run, settings.runtimes, student=student, teacher=teacher)
        dataset = data_of_student(run)
        images: dict[Role, np.ndarray] = {"student": dataset.eval_images}
        if run.result.teacher_classifies:
            images["teacher"] = data_of_teacher(run).eval_images
        _say_plan(candidates, settings, len(dataset.eval_labels))
        logits, scores = _score(candidates, images, dataset.eval_labels, settings.threads[0], settings.runtimes)
        chosen = [candidate for candidate in candidates if reason_not_timed(candidate, settings.runtimes) is None]
        timed, aa, failed = time_candidates(
            [candidate for candidate in chosen if candidate.name in logits], images, settings, reference
        )
        asked = {each.name: scores[each.name] for each in chosen}
        failed |= {name: score.reason for name, score in asked.items() if isinstance(score, NotRun)}
        files = read_export(run).files
        gated = gates(candidates, files, logits, dataset.eval_labels, limits)
        slower = [name for name, record in files.items() if record.is_slower]
        measured = Measured(dataset, logits, scores, timed, aa, settings, reference, gated, failed, slower)
        results = [candidate_result(candidate, measured) for candidate in candidates]
        verdict = judged(results, measured)
        benchmark = summary(run, machine, measured, results, verdict)
        seconds = round(time.perf_counter() - clock, 1)
        written = write_benchmark(run, benchmark.model_copy(update={"date": started, "seconds": seconds}))
        for line in other_defaults(run, written):
            logger.warning(line)
        return written


def _check_types(
    runtimes: Any,
    batches: Any,
    threads: Any,
    min_seconds: Any,
    min_runs: Any,
    overrides: Any,
    student: Any,
    teacher: Any,
) -> None:
    """Raises UsageError for an argument of `benchmark_run` that has a wrong type."""
    require_each(runtimes, str, "benchmark_run: runtimes", hint='For example ["ort"].')
    for name, values in (("batches", batches), ("threads", threads)):
        require_each(values, int, f"benchmark_run: {name}", hint="For example [1].")
    require_type(min_seconds, (int, float), "benchmark_run: min_seconds")
    require_type(min_runs, int, "benchmark_run: min_runs")
    require_type(overrides, (list, tuple), "benchmark_run: overrides", 'For example ["benchmark.KEY=VALUE"].')
    for name, module in (("student", student), ("teacher", teacher)):
        require_type(module, (nn.Module, type(None)), f"benchmark_run: {name}")


def _check(settings: Settings) -> None:
    if strange := [name for name in settings.runtimes if name not in RUNTIMES]:
        raise UsageError(f"there is no runtime {strange[0]!r}", f"Choose from {', '.join(RUNTIMES)}.")
    if min(settings.batches) < 1 or min(settings.threads) < 1 or settings.min_runs < 1 or settings.min_seconds < 0:
        raise UsageError("batches, threads and runs must be at least 1, and seconds at least 0")
    if max(settings.threads) > (cpus := usable_cpus()):
        logger.warning(
            f"{max(settings.threads)} threads are more than the {cpus} CPUs that this process may use: they wait for "
            "each other, which counts as other work"
        )


def _say_plan(candidates: Sequence[Candidate], settings: Settings, images: int) -> None:
    timed = [candidate for candidate in candidates if reason_not_timed(candidate, settings.runtimes) is None]
    groups = len(settings.threads) * len(settings.batches) * len(SCOPES)
    seconds = groups * (len(timed) + 0.5) * settings.min_seconds if timed else 0.0
    batches, threads = (", ".join(map(str, values)) for values in (settings.batches, settings.threads))
    logger.info(
        f"scoring {len(candidates)} models on {images:,} images, then timing {len(timed)} for "
        f"{settings.min_seconds:g} s or {settings.min_runs} runs each at batch {batches} with {threads} threads: "
        f"at least {seconds:.0f} s"
    )


def _score(
    candidates: Sequence[Candidate],
    images: Mapping[Role, np.ndarray],
    labels: np.ndarray,
    threads: int,
    runtimes: Collection[str],
) -> tuple[dict[str, np.ndarray], dict[str, AccuracyResult | NotRun]]:
    """Each candidate's logits on the evaluation split, computed once, and what they score."""
    logits: dict[str, np.ndarray] = {}
    scores: dict[str, AccuracyResult | NotRun] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for candidate in candidates:
            name = candidate.name
            answer = try_evaluate(candidate, images[candidate.role], threads)
            if isinstance(answer, str):
                scores[name] = NotRun(reason=answer)
                if not reason_not_timed(candidate, runtimes):
                    logger.warning(f"{name} is left out: {answer}")
                continue
            logits[name] = answer
            scores[name] = score = scoring.accuracy(answer, labels, "proxy" if candidate.proxy else "measured")
            logger.info(f"{name:<24} top1 {score.top1.value:.2%}{' (proxy)' if candidate.proxy else ''}")
    finally:
        torch.set_num_threads(before)
    return logits, scores
