"""What to do now, in one sentence: the first line of a report.

In: what was measured of a run. Out: a sentence in which what stands between backticks is code.
"""

from collections.abc import Collection, Sequence
from typing import Literal

from export.benchmark import Benchmark, CandidateResult, Judgement, NotRun
from export.report.as_run import RUNTIMES
from export.report.formats import limit_value, ms, percent
from export.report.plots import primary_latency

_OF_IMAGES = ("max_top1_drop", "max_class_drop")


def action(benchmark: Benchmark, altered: Collection[str] = ()) -> str:
    """Whether to deploy the recommended file, or what has to be done before that.

    Args:
        benchmark: of the run.
        altered: the candidates that are not the files that were measured.
    """
    verdict = benchmark.verdict
    if verdict.recommended is None:
        return "Deploy nothing: no file of the student could be deployed. Make one with `compress export`."
    best = benchmark.candidate(verdict.recommended)
    if best.name in altered:
        return f"Measure again with `compress benchmark`: `{best.name}` is not the file that was measured."
    failed = [_missed(judgement) for judgement in verdict.judgements if judgement.outcome == "FAIL"]
    if failed:
        return (
            f"Do not deploy `{best.name}`, the best file: {' and '.join(failed)}. Train a better student, export "
            "another precision, or change the limit in the recipe."
        )
    what = _described(benchmark, best)
    if not verdict.judgements:
        return f"Set a limit in the recipe, such as `benchmark.p90_ms`, before deploying {what}"
    if steps := _before(benchmark, verdict.judgements, best):
        return f"{' and '.join([steps[0], *map(_lower, steps[1:])])} before deploying {what}"
    return f"Deploy {what}"


def _described(benchmark: Benchmark, best: CandidateResult) -> str:
    """The file, how it is run, and what that gives."""
    threads = benchmark.settings.threads[0]
    computed = f", computed in {best.name.rpartition(':')[2]}" if best.name.endswith((":bf16", ":f16")) else ""
    with_threads = f" with {threads} thread{'s' if threads > 1 else ''}" if best.device == "cpu" else ""
    timed = primary_latency(benchmark, best.name)
    speed = f"{ms(timed.p50_ms.value)} ms at batch {timed.batch}" if timed else "not timed"
    top1 = "not scored" if isinstance(best.accuracy, NotRun) else percent(best.accuracy.top1.value)
    return f"`{best.file or best.name}` in {RUNTIMES[best.runtime]}{computed}{with_threads}: {speed}, top-1 {top1}."


def _missed(judgement: Judgement) -> str:
    """A limit that is missed, and by what."""
    assert judgement.measured is not None
    value, allowed = (limit_value(each, judgement.limit) for each in (judgement.measured.value, judgement.allowed))
    return f"it misses {judgement.limit}{judgement.of}, {value} where {allowed} are allowed"


def _before(benchmark: Benchmark, judgements: Sequence[Judgement], best: CandidateResult) -> list[str]:
    """What would decide each limit and gate that is UNDECIDED, each once."""
    open_ = [judgement for judgement in judgements if judgement.outcome == "UNDECIDED"]
    steps = [_images(benchmark, open_, best), *(_step(each) for each in open_ if each.limit != "max_top1_drop")]
    return list(dict.fromkeys(step for step in steps if step))


def _images(benchmark: Benchmark, open_: Sequence[Judgement], best: CandidateResult) -> str:
    """The most pictures that the top-1 limit or the gate of the export needs."""
    needed = [judgement.samples_to_decide for judgement in open_ if judgement.limit == "max_top1_drop"]
    if best.gate == "UNDECIDED":
        needed.append(best.gate_images_to_decide)
    if not needed:
        return ""
    known = [count for count in needed if count is not None]
    if not known:
        return "Change the limit, which no number of pictures would decide,"
    more = max(known) - benchmark.data.eval_images
    return f"Evaluate on {more:,} more pictures ({max(known):,} in all)" if more > 0 else ""


def would_decide(judgement: Judgement) -> str:
    """What would decide a limit, for a table. Empty where it is decided."""
    if judgement.outcome != "UNDECIDED":
        return ""
    needed, lacking = judgement.samples_to_decide, _lacking(judgement)
    if lacking in ("images", "runs") and needed:
        return f"{needed:,} {lacking}"
    without_a_count = {
        "images": "no number of images" if judgement.measured else "images",
        "runs": "more runs",
        "batch 1": "a run at batch 1",
        "quiet": "a quiet machine",
    }
    return without_a_count[lacking]


def _step(judgement: Judgement) -> str:
    """What would decide a limit other than that of top-1."""
    needed, lacking = judgement.samples_to_decide, _lacking(judgement)
    if lacking == "images":
        more = f"{needed - judgement.samples:,}" if needed and needed > judgement.samples else "many"
        return f"Evaluate on {more} more pictures{judgement.of or ' of each class'}"
    if lacking == "batch 1":
        return "Measure at batch 1 with `compress benchmark`"
    if lacking == "quiet":
        return "Measure again on a quiet machine"
    runs = f" (about {needed:,} runs)" if needed else ""
    return f"Measure longer with `compress benchmark --seconds`{runs}"


def _lacking(judgement: Judgement) -> Literal["images", "runs", "batch 1", "quiet"]:
    """What a limit that is UNDECIDED lacks."""
    if judgement.limit in _OF_IMAGES:
        return "images"
    if judgement.measured is None:
        return "batch 1"
    return "quiet" if judgement.measured.low > judgement.allowed else "runs"


def _lower(step: str) -> str:
    return step[:1].lower() + step[1:]
