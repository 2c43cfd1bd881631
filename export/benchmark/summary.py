"""From measurements to benchmark.json: what each candidate is like, the verdict, comparisons and warnings.

In: the logits and times of all candidates. Out: a Benchmark that says all but when it was measured.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compress.data import Dataset
from compress.recipe import BenchmarkLimits
from compress.runs.folder import Run
from export import statistics
from export.benchmark import scoring
from export.benchmark.candidates import STUDENT, STUDENT_FILE, Candidate, reason_not_timed
from export.benchmark.executions import Gate
from export.benchmark.latency import MAX_BUSY
from export.benchmark.memory import peak_memory
from export.benchmark.noise import noise_warnings
from export.benchmark.results import (
    AARun,
    AccuracyResult,
    Benchmark,
    CandidateResult,
    Comparison,
    DataFacts,
    Latency,
    Machine,
    NotRun,
    Reference,
    Settings,
    Thumbnail,
    Verdict,
)
from export.benchmark.verdict import Evidence, decide
from export.folder import read_export
from export.records import ExportRecord
from export.statistics import PairedDrop


@dataclass(frozen=True)
class Measured:
    """What was measured of all candidates, by name. `logits` [N, C] are those of the images that `labels` [N] name.

    reference: the candidate that others are compared with.
    """

    dataset: Dataset
    logits: dict[str, np.ndarray]
    scores: dict[str, AccuracyResult | NotRun]
    timed: dict[str, list[Latency]]
    aa: list[AARun]
    settings: Settings
    reference: Reference
    gates: Mapping[str, Gate] = field(default_factory=dict)
    """Of the student's files, and of their graphs in OpenVINO."""
    not_timed: Mapping[str, str] = field(default_factory=dict)
    """Candidates that could not be timed at every batch, and why."""
    slower: Collection[str] = ()
    """Files that their export found slower than FP32."""

    @property
    def labels(self) -> np.ndarray:
        return np.asarray(self.dataset.eval_labels)

    @property
    def primary(self) -> dict[str, Latency]:
        """The model alone at the smallest batch and the first number of threads: what plots and the verdict look at."""
        wanted = ("model", self.settings.batches[0], self.settings.threads[0])
        return {
            name: entry
            for name, entries in self.timed.items()
            for entry in entries
            if (entry.scope, entry.batch, entry.threads) == wanted
        }


def candidate_result(candidate: Candidate, measured: Measured) -> CandidateResult:
    """What is known of one candidate. Its memory is measured now."""
    settings, gate = measured.settings, measured.gates.get(candidate.name)
    reason = reason_not_timed(candidate, settings.runtimes)
    if reason is None and not measured.timed.get(candidate.name):
        reason = measured.not_timed.get(candidate.name)
    if reason is None and candidate.device == "cpu":
        execution = candidate.execution if candidate.runtime == "openvino" else ""
        batch, threads = max(settings.batches), settings.threads[0]
        memory = peak_memory(candidate.path, batch=batch, threads=threads, execution=execution)
    else:
        memory = NotRun(reason=reason or "memory of a GPU is not measured")
    return CandidateResult(
        name=candidate.name,
        role=candidate.role,
        runtime=candidate.runtime,
        precision=candidate.precision,
        file="" if candidate.module is not None else candidate.name.split(":")[0],
        options=candidate.options(settings.threads[0]),
        device=candidate.device,
        deployable=candidate.role == "student"
        and candidate.runtime != "torch"
        and not candidate.proxy
        and isinstance(measured.scores[candidate.name], AccuracyResult)
        and not (gate and gate.outcome == "FAIL"),
        gate=gate.outcome if gate else None,
        gate_images_to_decide=gate.images_to_decide if gate else None,
        size_bytes=candidate.size_bytes,
        sha256=candidate.sha256,
        weights_sha256=candidate.weights_sha256,
        accuracy=measured.scores[candidate.name],
        latency=measured.timed[candidate.name] if reason is None else NotRun(reason=reason),
        memory=memory,
    )


def judged(results: Sequence[CandidateResult], measured: Measured) -> Verdict:
    """The verdict on what could be deployed, by the limits of the settings."""
    evidence = [_evidence(result, measured) for result in results if result.deployable]
    limits = BenchmarkLimits.model_validate(measured.settings.limits)
    primary = measured.primary
    points = {
        result.name: (result.accuracy.top1.value, primary[result.name].p50_ms.value)
        for result in results
        if isinstance(result.accuracy, AccuracyResult) and result.name in primary
    }
    return decide([entry for entry in evidence if entry is not None], limits, points)


def _evidence(result: CandidateResult, measured: Measured) -> Evidence | None:
    if not isinstance(result.accuracy, AccuracyResult):
        return None
    labels, timed = measured.labels, measured.primary.get(result.name)
    before, after = measured.logits[measured.reference], measured.logits[result.name]
    return Evidence(
        name=result.name,
        top1=result.accuracy.top1.value,
        size_bytes=result.size_bytes,
        drop=PairedDrop.of(statistics.right(before, labels), statistics.right(after, labels)),
        classes=scoring.named_classes(before, after, labels, measured.dataset.class_names),
        p50_ms=timed.p50_ms.value if timed else None,
        p90_ms=timed.p90_ms if timed and timed.batch == 1 else None,
        runs=timed.runs if timed else 0,
        contended=timed is not None and timed.contended,
        balanced_top1=result.accuracy.balanced_top1,
        gate=result.gate or "PASS",
        slower=result.name in measured.slower,
    )


def summary(
    run: Run, machine: Machine, measured: Measured, results: list[CandidateResult], verdict: Verdict
) -> Benchmark:
    """All that benchmark.json says. Its date, seconds and hash are still empty."""
    manifest, record = run.result, read_export(run)
    dataset, logits, labels = measured.dataset, measured.logits, measured.labels
    calibration = record.calibration
    comparisons = _comparisons(measured, {result.name: result for result in results})
    shown = verdict.recommended or STUDENT
    classes = scoring.named_classes(logits[measured.reference], logits[shown], labels, dataset.class_names)
    sizes = {result.name: result.size_bytes for result in results}
    return Benchmark(
        run=run.path.resolve().name,
        recipe=manifest.recipe,
        method=manifest.method,
        date="",
        seconds=0.0,
        recipe_sha256=run.recipe.sha256,
        calibration_sha256=calibration.indices_sha256 if calibration else None,
        calibration=f"{calibration.method}, {calibration.images} images of {calibration.split}"
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
        settings=measured.settings,
        reference=measured.reference,
        verdict=verdict,
        candidates=results,
        waterfall=scoring.waterfall(logits, labels, measured.scores, measured.primary, sizes),
        comparisons=comparisons,
        classes=scoring.class_changes(classes),
        thumbnails=_thumbnails(comparisons, measured.reference, shown, dataset),
        aa=measured.aa,
        warnings=[*data_warnings(dataset), *_warnings(record, measured, verdict)],
        sha256="",
    )


def _comparisons(measured: Measured, results: Mapping[str, CandidateResult]) -> list[Comparison]:
    """Every candidate against the reference, and every precision against FP32."""
    plain, logits, first = (STUDENT, STUDENT_FILE), measured.logits, measured.reference
    pairs: list[tuple[str, str]] = [(first, other) for other in logits if other != first]
    pairs += [(STUDENT_FILE, other) for other in logits if results[other].role == "student" and other not in plain]
    found = []
    for reference, other in pairs:
        score = results[other].accuracy
        assert isinstance(score, AccuracyResult), other  # there are logits of it
        found.append(scoring.compare(reference, other, logits, measured.labels, score.source))
    return found


def _thumbnails(
    comparisons: Sequence[Comparison], reference: Reference, shown: str, dataset: Dataset
) -> list[Thumbnail]:
    return [
        thumbnail
        for comparison in comparisons
        if comparison.reference != reference or comparison.candidate == shown
        for thumbnail in scoring.thumbnails(comparison, dataset.eval_images, dataset.class_names)
    ]


def data_warnings(dataset: Dataset) -> list[str]:
    """What readers of the accuracies should know of the data, a sentence each."""
    found = [f"{warning}." for warning in dataset.warnings]
    if dataset.left_out:
        found.append(f"Images that cannot be read were left out: {len(dataset.left_out):,}.")
    return found


def _open_gates(record: ExportRecord, measured: Measured) -> dict[str, str]:
    """What is UNDECIDED at its gate, as the export found it or here, and why."""
    found = {
        ":".join(filter(None, (name, execution))): said
        for name, entry in record.files.items()
        for execution, said in entry.open_gates.items()
    }
    here = {name: gate.reason for name, gate in measured.gates.items() if gate.outcome == "UNDECIDED"}
    return {name: said for name, said in found.items() if name not in measured.gates} | here


def _warnings(record: ExportRecord, measured: Measured, verdict: Verdict) -> list[str]:
    timed, limits = measured.timed, BenchmarkLimits.model_validate(measured.settings.limits)
    busy = max((entry.busy for entries in timed.values() for entry in entries), default=0.0)
    found = []
    if record.failed is not None:
        found.append(f"The export did not finish: {record.failed}")
    if busy > MAX_BUSY:
        found.append(
            f"Other work kept CPUs from this benchmark in up to {100 * busy:.0f} % of the rounds, also when they were "
            "measured again: factors of speed are withheld there. Run it again on a quiet machine."
        )
    found += [f"At its gate {name} is UNDECIDED: {said}." for name, said in _open_gates(record, measured).items()]
    found += noise_warnings(verdict, measured.primary, limits, measured.reference)
    failed = {name: gate.reason for name, gate in measured.gates.items() if gate.outcome == "FAIL"}
    found += [f"{name} is not recommended: {reason}." for name, reason in failed.items()]
    found += [f"{name} was not timed at every batch: {reason}." for name, reason in measured.not_timed.items()]
    found += [
        f"{run.candidate} differs from itself at batch {run.batch} by {100 * abs(run.ratio.value - 1):.1f} %: "
        "smaller differences between models mean nothing here."
        for run in measured.aa
        if run.differs
    ]
    return found
