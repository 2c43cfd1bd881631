"""A finished run and its export in; benchmark.json out: accuracy, latency, memory, comparisons and the verdict.

It reads top to bottom: find the models, score each once, time them in turns, weigh them, decide.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from compress.data import Dataset, load_data
from compress.runs.folder import Run, now
from compress.runs.locks import held
from compress.system.errors import InputError, UsageError
from export.benchmark import latency, results, scoring
from export.benchmark.candidates import (
    RUNTIMES,
    STUDENT,
    STUDENT_FILE,
    TEACHER,
    Model,
    find_models,
    read_export,
    reason_not_timed,
    try_evaluate,
)
from export.benchmark.machine import this_machine
from export.benchmark.memory import peak_memory
from export.benchmark.results import (
    Accuracy,
    Benchmark,
    Candidate,
    Comparison,
    DataFacts,
    Latency,
    NotRun,
    Settings,
    Source,
)
from export.benchmark.timing import SCOPES, time_models
from export.benchmark.verdict import Evidence, decide
from export.runtimes import default_threads
from export.statistics.comparison import Pairs

BATCHES = (1, 32)


def benchmark_run(
    run: Run,
    *,
    runtimes: Sequence[str] = RUNTIMES,
    batches: Sequence[int] = BATCHES,
    threads: Sequence[int] = (),
    min_seconds: float = latency.MIN_SECONDS,
    min_runs: int = latency.MIN_RUNS,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures a finished run and writes RUN/benchmark.json, whose content it returns (results.Benchmark).

    threads: default what the process may use; the first count and the smallest batch are those of the verdict's plots.
    Raises InputError for a run without an export, for altered files and for data that is not that of the run.
    """
    if not math.isfinite(min_seconds):
        raise UsageError(f"{min_seconds} seconds cannot be measured", "Give a number, such as 3.")
    started, clock = now(), time.perf_counter()
    machine = this_machine()
    settings = Settings(
        runtimes=list(runtimes) or list(RUNTIMES),
        batches=sorted(set(batches)) or list(BATCHES),
        threads=list(dict.fromkeys(threads)) or [default_threads()],
        min_seconds=min_seconds,
        min_runs=min_runs,
        limits=run.recipe.benchmark.model_dump(),
    )
    _check(settings)
    with held(run.path):
        record, models = read_export(run), find_models(run)
        dataset = _data(run, say)
        labels = np.asarray(dataset.eval_labels)
        _plan(models, settings, len(labels), say)
        logits, scores = _score(models, dataset, settings.threads[0], say)
        chosen = [model for model in models if reason_not_timed(model, settings.runtimes) is None]
        timed, aa = time_models(chosen, dataset, settings, say)
        candidates = [_candidate(model, scores[model.name], timed, settings) for model in models]
        sources: dict[str, Source] = {model.name: "proxy" if model.proxy else "measured" for model in models}
        comparisons = _comparisons(logits, labels, sources)
        primary = {name: _primary(entries, settings) for name, entries in timed.items() if entries}
        evidence = [_evidence(entry, logits, labels, dataset, primary) for entry in candidates if entry.deployable]
        verdict = decide(
            [entry for entry in evidence if entry is not None],
            run.recipe.benchmark,
            {
                entry.name: (entry.accuracy.top1.value, primary[entry.name].p50_ms.value)
                for entry in candidates
                if isinstance(entry.accuracy, Accuracy) and entry.name in primary
            },
        )
        shown = verdict.recommended or STUDENT
        calibration = record.get("calibration")
        manifest = run.result
        outcome = Benchmark(
            run=run.path.resolve().name,
            recipe=manifest.recipe,
            method=manifest.method,
            date=started,
            seconds=0.0,
            recipe_sha256=run.recipe.sha256,
            calibration_sha256=calibration["indices_sha256"] if calibration else None,
            calibration=f"{calibration['method']}, {calibration['images']} images of {calibration['split']}"
            if calibration
            else None,
            data=DataFacts(
                name=dataset.name,
                sha256=dataset.sha256,
                class_names=dataset.class_names,
                eval_split=dataset.eval_split,
                eval_images=len(labels),
                image_size=dataset.image_size,
            ),
            machine=machine,
            settings=settings,
            verdict=verdict,
            candidates=candidates,
            waterfall=scoring.waterfall(logits, labels, scores, primary, {m.name: m.size_bytes for m in models}),
            comparisons=comparisons,
            classes=scoring.class_changes(
                scoring.named_classes(logits[TEACHER], logits[shown], labels, dataset.class_names)
            ),
            thumbnails=[
                thumbnail
                for comparison in comparisons
                if comparison.reference != TEACHER or comparison.candidate == shown
                for thumbnail in scoring.thumbnails(comparison, dataset.eval_images, dataset.class_names)
            ],
            aa=aa,
            warnings=_warnings(record, timed, aa, machine.load_average, machine.cores_allowed),
            sha256="",
        )
        outcome = outcome.model_copy(update={"seconds": round(time.perf_counter() - clock, 1)})
        return results.write_benchmark(run.path, outcome)


def _check(settings: Settings) -> None:
    if strange := [name for name in settings.runtimes if name not in RUNTIMES]:
        raise UsageError(f"there is no runtime {strange[0]!r}", f"Choose from {', '.join(RUNTIMES)}.")
    if min(settings.batches) < 1 or min(settings.threads) < 1 or settings.min_runs < 1 or settings.min_seconds < 0:
        raise UsageError("batches, threads and runs must be at least 1, and seconds at least 0")


def _data(run: Run, say: Callable[[str], None]) -> Dataset:
    dataset = load_data(run.recipe.data)
    if dataset.sha256 != run.result.data.sha256:
        raise InputError(
            f"{dataset.name} is no longer the data that {run.path} was trained on: its hash differs",
            "Restore it, or train again.",
        )
    return dataset


def _plan(models: Sequence[Model], settings: Settings, images: int, say: Callable[[str], None]) -> None:
    timed = [model for model in models if reason_not_timed(model, settings.runtimes) is None]
    groups = len(settings.threads) * len(settings.batches) * len(SCOPES)
    seconds = groups * (len(timed) + 0.5) * settings.min_seconds if timed else 0.0
    say(
        f"scoring {len(models)} models on {images:,} images, then timing {len(timed)} for {settings.min_seconds:g} s "
        f"and {settings.min_runs} runs each at batch {', '.join(map(str, settings.batches))} with "
        f"{', '.join(map(str, settings.threads))} threads: at least {seconds:.0f} s"
    )


def _score(
    models: Sequence[Model], dataset: Dataset, threads: int, say: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], dict[str, Accuracy | NotRun]]:
    """Each model's logits on the evaluation split, computed once, and what they score."""
    logits: dict[str, np.ndarray] = {}
    scores: dict[str, Accuracy | NotRun] = {}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for model in models:
            answer = try_evaluate(model, dataset.eval_images, threads)
            if isinstance(answer, str):
                scores[model.name] = NotRun(reason=answer)
                continue
            if not np.isfinite(answer).all():
                raise InputError(f"{model.name} gives logits that are not finite", "Run `compress export` again.")
            logits[model.name] = answer
            score = scoring.accuracy(answer, dataset.eval_labels, "proxy" if model.proxy else "measured")
            scores[model.name] = score
            say(f"{model.name:<24} top1 {score.top1.value:.2%}{' (proxy)' if model.proxy else ''}")
    finally:
        torch.set_num_threads(before)
    return logits, scores


def _candidate(
    model: Model, score: Accuracy | NotRun, timed: dict[str, list[Latency]], settings: Settings
) -> Candidate:
    reason = reason_not_timed(model, settings.runtimes)
    if reason is None and not model.engine:
        memory = peak_memory(model.path, batch=max(settings.batches), threads=settings.threads[0])
    else:
        memory = NotRun(reason=reason or "memory of a GPU is not measured")
    return Candidate(
        name=model.name,
        role=model.role,
        runtime=model.runtime,
        precision=model.precision,
        device="cuda" if model.engine else "cpu",
        deployable=model.role == "student" and model.runtime != "torch" and not model.proxy,
        size_bytes=model.size_bytes,
        sha256=model.sha256,
        accuracy=score,
        latency=timed[model.name] if reason is None else NotRun(reason=reason),
        memory=memory,
    )


def _comparisons(logits: dict[str, np.ndarray], labels: np.ndarray, sources: dict[str, Source]) -> list[Comparison]:
    """Every form of the student against the teacher, and every precision against FP32."""
    plain = (STUDENT, STUDENT_FILE)
    pairs = [(TEACHER, other) for other in logits if other != TEACHER]
    pairs += [(STUDENT_FILE, other) for other in logits if other.startswith("student.") and other not in plain]
    return [scoring.compare(reference, other, logits, labels, sources[other]) for reference, other in pairs]


def _primary(entries: list[Latency], settings: Settings) -> Latency:
    """The model alone at the smallest batch and the first number of threads: what plots and the verdict look at."""
    batch, threads = settings.batches[0], settings.threads[0]
    return next(e for e in entries if (e.scope, e.batch, e.threads) == ("model", batch, threads))


def _evidence(
    entry: Candidate, logits: dict[str, np.ndarray], labels: np.ndarray, dataset: Dataset, primary: dict[str, Latency]
) -> Evidence | None:
    if not isinstance(entry.accuracy, Accuracy):
        return None
    before, after = logits[TEACHER], logits[entry.name]
    timed = primary.get(entry.name)
    return Evidence(
        name=entry.name,
        top1=entry.accuracy.top1.value,
        size_bytes=entry.size_bytes,
        pairs=Pairs.of(*(scoring.statistics.right(answers, labels) for answers in (before, after))),
        classes=scoring.named_classes(before, after, labels, dataset.class_names),
        p50_ms=timed.p50_ms.value if timed else None,
        p90_ms=timed.p90_ms if timed and timed.batch == 1 else None,
        runs=timed.runs if timed else 0,
    )


def _warnings(
    record: dict[str, Any], timed: dict[str, list[Latency]], aa: list[results.AARun], load: float | None, cores: int
) -> list[str]:
    noisy = [entry for entries in timed.values() for entry in entries if entry.noisy]
    found = []
    if "failed" in record:
        found.append(f"The export did not finish: {record['failed']}")
    if noisy:
        share = f"{len(noisy)} of {sum(map(len, timed.values()))}"
        found.append(f"{share} latencies vary by more than 5 %, up to {100 * max(e.cv for e in noisy):.0f} %.")
    found += [
        f"{run.candidate} differs from itself at batch {run.batch} by {100 * abs(run.ratio.value - 1):.1f} %: "
        "smaller differences between models mean nothing here."
        for run in aa
        if run.differs
    ]
    if load is not None and load > cores / 2:
        found.append(f"Other work was running: the load average was {load:g} on {cores} cores.")
    return found
