"""The verdict: PASS where a whole interval clears its limit, FAIL where it misses it whole, else UNDECIDED.

The gate of a file's export counts as a limit: nothing that is UNDECIDED there is recommended where another file passes.

In: what was measured of each file that could be deployed, and the limits of the recipe. Out: a Verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress.recipe import BenchmarkLimits
from compress.system.errors import GateError
from export import statistics
from export.benchmark.results import Interval, Judgement, LimitName, Outcome, Verdict
from export.statistics import ClassDrop, PairedDrop

_RANK: dict[Outcome, int] = {"PASS": 0, "UNDECIDED": 1, "FAIL": 2}


@dataclass(frozen=True)
class Evidence:
    """What is known of one file. `classes` are named, those that lose most first. None: not run.

    gate: of its export, or of the same limits in the runtime at hand.
    slower: whether its export found it slower than FP32.
    """

    name: str
    top1: float
    size_bytes: int
    drop: PairedDrop
    classes: Sequence[tuple[str, ClassDrop]] = field(default_factory=list)
    p50_ms: float | None = None
    p90_ms: Interval | None = None
    runs: int = 0
    contended: bool = False
    balanced_top1: float | None = None
    gate: Outcome = "PASS"
    slower: bool = False

    @property
    def by_speed(self) -> tuple[float, bool, int, str]:
        """Sorts files by their time. Where none was timed, what is slower than FP32 comes last, however small."""
        return self.p50_ms or float("inf"), self.slower, self.size_bytes, self.name


def outcome(measured: Interval, allowed: float) -> Outcome:
    """PASS where the whole interval is within the limit, FAIL where it is beyond, else UNDECIDED."""
    if measured.high <= allowed:
        return "PASS"
    return "FAIL" if measured.low > allowed else "UNDECIDED"


def judge(evidence: Evidence, limits: BenchmarkLimits) -> list[Judgement]:
    """One judgement for each limit that is set."""
    judged = []
    if limits.max_top1_drop is not None:
        judged.append(_top1(evidence, limits.max_top1_drop))
    if limits.max_class_drop is not None:
        judged.append(_worst_class(evidence, limits.max_class_drop))
    if limits.p90_ms is not None:
        judged.append(_latency(evidence, limits.p90_ms))
    if limits.max_size_mb is not None:
        megabytes = evidence.size_bytes / 1e6
        size = Interval(value=megabytes, low=megabytes, high=megabytes)
        judged.append(_judgement("max_size_mb", limits.max_size_mb, size, 1))
    return judged


def overall(judgements: Sequence[Judgement]) -> Outcome:
    """The worst of them. UNDECIDED where nothing was judged."""
    outcomes: list[Outcome] = [judgement.outcome for judgement in judgements]
    worst: Outcome = "FAIL" if "FAIL" in outcomes else "UNDECIDED"
    return "PASS" if outcomes and set(outcomes) == {"PASS"} else worst


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Of {name: (accuracy, milliseconds)} those that no other beats without losing in the other; fastest first."""

    def beaten(name: str) -> bool:
        accuracy, time = points[name]
        return any(a >= accuracy and t <= time and (a, t) != (accuracy, time) for a, t in points.values())

    return sorted((name for name in points if not beaten(name)), key=lambda name: (points[name][1], name))


def decide(evidence: Sequence[Evidence], limits: BenchmarkLimits, points: Mapping[str, tuple[float, float]]) -> Verdict:
    """The verdict on the recommended file: of the best outcome the fastest.

    Where none was timed, it is the smallest that its export did not find slower than FP32.

    The outcome of a file is the worst of its limits and its gate. Of two that are UNDECIDED the one that passed its
    gate is better.

    Args:
        evidence: of each file that could be deployed.
        limits: of the recipe.
        points: (accuracy, milliseconds) of everything that was measured, for the Pareto set.
    """
    judged = {entry.name: judge(entry, limits) for entry in evidence}
    by_file: dict[str, Outcome] = {entry.name: _worst(overall(judged[entry.name]), entry.gate) for entry in evidence}
    ranked = sorted(evidence, key=lambda e: (_RANK[by_file[e.name]], _RANK[e.gate], *e.by_speed))
    best = ranked[0].name if ranked else None
    return Verdict(
        outcome=by_file[best] if best else "UNDECIDED",
        recommended=best,
        passed_over={e.name: _why_not(e, judged[e.name]) for e in ranked[1:] if _faster(e, ranked[0])},
        balanced_top1=ranked[0].balanced_top1 if ranked else None,
        judgements=judged[best] if best else [],
        by_file=by_file,
        pareto=pareto(points),
    )


def _worst(*outcomes: Outcome) -> Outcome:
    return max(outcomes, key=lambda each: _RANK[each])


def _faster(entry: Evidence, than: Evidence) -> bool:
    return entry.p50_ms is not None and (than.p50_ms is None or entry.p50_ms < than.p50_ms)


def _why_not(entry: Evidence, judgements: Sequence[Judgement]) -> str:
    """As in "UNDECIDED at the gate of its export, FAIL at p90_ms"."""
    gates = [] if entry.gate == "PASS" else [f"{entry.gate} at the gate of its export"]
    missed = [f"{each.outcome} at {each.limit}" for each in judgements if each.outcome != "PASS"]
    return ", ".join(gates + missed)


def gate(verdict: Verdict) -> None:
    """Lets a verdict pass that is not FAIL. UNDECIDED passes: nothing was shown to be wrong.

    Raises:
        GateError: a limit is missed. It names the first.
    """
    for missed in verdict.judgements:
        if missed.outcome == "FAIL" and missed.measured is not None:
            value, low, high = missed.measured.value, missed.measured.low, missed.measured.high
            raise GateError(
                f"{verdict.recommended} misses {missed.limit}: {value:.4g}{missed.of} "
                f"(95 % interval {low:.4g} to {high:.4g}), {missed.allowed:.4g} allowed",
                "Train a better student, deploy another precision, or change the limit in the recipe",
            )


def _top1(evidence: Evidence, allowed: float) -> Judgement:
    drop = evidence.drop
    needed = statistics.images_to_decide(drop, allowed)
    return _judgement("max_top1_drop", allowed, Interval.of(drop.range()), drop.n, needed)


def _worst_class(evidence: Evidence, allowed: float) -> Judgement:
    """Every class must clear the limit. The class that is named is the one nearest to missing it."""
    if not evidence.classes:
        return _not_run("max_class_drop", allowed, "no class has images")
    failing = [(name, row) for name, row in evidence.classes if row.low > allowed]
    name, row = failing[0] if failing else max(evidence.classes, key=lambda entry: entry[1].high)
    confidence = statistics.joint_confidence(len(evidence.classes))
    needed = statistics.images_to_decide(row.drop, allowed, confidence)
    measured = Interval(value=row.drop.value, low=row.low, high=row.high)
    note = "The interval holds for all classes together; samples are images of this class."
    return _judgement("max_class_drop", allowed, measured, row.drop.n, needed, f" in class {name}", note)


def _latency(evidence: Evidence, allowed: float) -> Judgement:
    if evidence.p90_ms is None:
        return _not_run("p90_ms", allowed, "the model alone was not timed at batch 1")
    measured = evidence.p90_ms
    distance = abs(allowed - measured.value)
    reach = measured.high - measured.value if measured.value <= allowed else measured.value - measured.low
    # An interval narrows with the root of the number of runs.
    needed = round(evidence.runs * max(1.0, reach / distance) ** 2) if distance > 0 else None
    note = "Runs that would decide are an estimate: intervals narrow with their root."
    judged = _judgement("p90_ms", allowed, measured, evidence.runs, needed, "", note)
    if evidence.contended and judged.outcome == "FAIL":
        note = "Other work held the CPUs: on a quiet machine it may pass."
        return judged.model_copy(update={"outcome": "UNDECIDED", "note": note})
    return judged


def _judgement(
    limit: LimitName,
    allowed: float,
    measured: Interval,
    samples: int,
    needed: int | None = None,
    of: str = "",
    note: str = "",
) -> Judgement:
    decided = outcome(measured, allowed)
    return Judgement(
        limit=limit,
        allowed=allowed,
        measured=measured,
        of=of,
        outcome=decided,
        samples=samples,
        samples_to_decide=needed if decided == "UNDECIDED" else None,
        note=note,
    )


def _not_run(limit: LimitName, allowed: float, reason: str) -> Judgement:
    return Judgement(
        limit=limit,
        allowed=allowed,
        measured=None,
        outcome="UNDECIDED",
        samples=0,
        samples_to_decide=None,
        note=f"not run: {reason}",
    )
