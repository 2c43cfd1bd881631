"""Runs' benchmark.json in; one HTML page without external requests and one Markdown file out.

Everything is read and rendered before anything is written. Where a run is damaged, what was there stays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compress.runs.folder import Run
from compress.system import files
from compress.system.arguments import require_each, require_type
from compress.system.errors import InputError, UsageError
from compress.system.paths import user_path
from compress.training.metrics import read_metrics
from compress.training.trackers import add_artifacts
from export.benchmark import (
    Benchmark,
    CandidateResult,
    Comparison,
    Interval,
    Latency,
    NotRun,
    read_benchmark,
)
from export.benchmark.bundled import other_defaults
from export.benchmark.identity import is_another
from export.folder import given_run
from export.report import folded, plots
from export.report.action import action, would_decide
from export.report.baseline import plain_training
from export.report.batches import BatchRow, batch_rows, p99_note
from export.report.formats import FILTERS, factors, megabytes, ms, than
from export.report.names import told_apart
from export.report.reference import ReferenceWords, reference_words
from export.report.reworded import reworded

CLASSES_IN_MARKDOWN = 5
BUSY = "other work held the CPUs: measure again on a quiet machine"
_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
_OWN = ("folder", "csv", "hub")
_OUTCOMES = {
    "PASS": "yes, it clears every limit",
    "FAIL": "no, it misses a limit",
    "UNDECIDED": "not decided yet: an interval straddles its limit, or something was not run",
}
_ADVICE = {"PASS": "Deploy", "FAIL": "The best of what misses is", "UNDECIDED": "The best so far is"}


def report_runs(runs: Run | str | Path | Sequence[Run | str | Path], out: str | Path | None = None) -> list[Path]:
    """Writes a page and Markdown of what was measured of one run, or of several side by side.

    Where one run was tracked (train.tracker), its trackers get both files.

    Args:
        runs: benchmarked runs, or their folders.
        out: the HTML file; Markdown goes beside it with .md. Default: RUN/report.html, for several runs ./report.html.

    Returns:
        The two paths.

    Raises:
        UsageError: there is no run, or `out` does not end in .html.
        InputError: a benchmark.json is missing or damaged, or runs of one data set saw different data.
    """
    given = [runs] if isinstance(runs, Run | str | Path) else runs
    require_each(given, (Run, str, Path), "report_runs: runs", hint="Name one or several run folders.")
    require_type(out, (str, Path, type(None)), "report_runs: out")
    found = [given_run(run) for run in given]
    if not found:
        raise UsageError("no run to report on", "Name one or several run folders.")
    page = user_path(out) if out is not None else found[0].report if len(found) == 1 else Path(found[0].report.name)
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{out} is no name for the page", "Choose one that ends in .html; .md is written beside it.")
    content = _content(found)
    written = {
        page: environment().get_template("report.html.j2").render(content),
        page.with_suffix(".md"): environment().get_template("report.md.j2").render(content),
    }
    for path, text in written.items():
        files.write_bytes(path, text.encode())
    if len(found) == 1:
        add_artifacts(found[0].path, list(written))
    return list(written)


def markdown(runs: Sequence[Run], words: Callable[[str], str] = str) -> str:
    """The Markdown of `report_runs` for other machines: without what is of the bundle here. Raises InputError as it.

    Args:
        words: makes of each warning, and of each reason why something was not run, what is written of it.
    """
    return environment().get_template("report.md.j2").render(_content(runs, bundles=False, words=words))


def _content(runs: Sequence[Run], *, bundles: bool = True, words: Callable[[str], str] = str) -> dict[str, Any]:
    benchmarks = told_apart([reworded(read_benchmark(run), words) for run in runs], [run.path for run in runs])
    views = [View.read(run, benchmark, bundles=bundles) for run, benchmark in zip(runs, benchmarks, strict=True)]
    _check_same_data(views)
    names = {view.words.name for view in views}
    reference_name = names.pop() if len(names) == 1 else "reference"
    return {"views": views, "outcomes": _OUTCOMES, "advice": _ADVICE, "reference_name": reference_name}


def environment() -> jinja2.Environment:
    """The templates of this package, with the filters below. HTML is escaped. A name that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("export.report"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update({**FILTERS, would_decide.__name__: would_decide})
    return made


@dataclass(frozen=True)
class View:
    """One run as the templates see it."""

    benchmark: Benchmark
    metrics: list[dict[str, Any]]
    labels_alone: str
    """Whether plain training would have done; empty for a run that is that."""
    action: str
    """What to do now."""

    @classmethod
    def read(cls, run: Run, benchmark: Benchmark, *, bundles: bool = True) -> "View":
        if others := [entry.name for entry in benchmark.candidates if is_another(run, entry)]:
            warning = f"Made anew, or gone, since this was measured: {', '.join(others)}. Run compress benchmark again."
            benchmark = benchmark.model_copy(update={"warnings": [warning, *benchmark.warnings]})
        warnings = [*benchmark.warnings, *(other_defaults(run, benchmark) if bundles else [])]
        benchmark = benchmark.model_copy(update={"warnings": warnings})
        return cls(benchmark, read_metrics(run.metrics), plain_training(run), action(benchmark, others))

    @property
    def plots(self) -> dict[str, tuple[str, Markup]]:
        """Titles and SVG by the name of the plot."""
        shown = self.benchmark.verdict.recommended or "student.torch"
        return {
            "pareto": ("Accuracy against latency", Markup(plots.pareto(self.benchmark))),
            "waterfall": ("What each step costs", Markup(plots.waterfall(self.benchmark))),
            "classes": (f"Classes: {shown} against {self.words.the}", Markup(plots.classes(self.benchmark))),
            "reliability": ("Can its confidence be trusted?", Markup(plots.reliability(self.benchmark))),
            "curves": ("Training", Markup(plots.curves(self.benchmark.run, self.metrics))),
        }

    @property
    def recommended(self) -> CandidateResult | None:
        """What the verdict recommends. None where there is nothing to deploy."""
        name = self.benchmark.verdict.recommended
        return self.benchmark.candidate(name) if name else None

    @property
    def reference(self) -> CandidateResult:
        """What all others are compared with."""
        return self.benchmark.candidate(self.benchmark.reference)

    @property
    def words(self) -> ReferenceWords:
        """What the reference is called."""
        return reference_words(self.benchmark.reference)

    @property
    def cpu_flags(self) -> str:
        """Those of the processor that matter to speed."""
        return ", ".join(flag for flag in _CPU_FLAGS if flag in self.benchmark.machine.cpu_flags) or "none of note"

    @property
    def savings(self) -> list[tuple[str, str]]:
        """What the recommended file saves against the reference: (how much, of what)."""
        chosen, reference = self.recommended, self.reference
        if chosen is None:
            return []
        found = []
        timed = self.primary(chosen)
        if timed and timed.contended:
            found.append(("speed withheld", BUSY))
        for speedup, slower in self.factors_of_speed(chosen):
            if timed and (before := self.primary(self.benchmark.candidate(slower))):
                times = f"than {slower}: {ms(before.p50_ms.value)} → {ms(timed.p50_ms.value)} ms at batch {timed.batch}"
                interval = f"95 % interval {factors(speedup)}" if speedup.has_ends else factors(speedup)
                found.append((than(speedup.value, "faster", "slower"), f"{times}; {interval}"))
        sizes = f"{megabytes(reference.size_bytes)} → {megabytes(chosen.size_bytes)} MB on disk"
        found.append((than(reference.size_bytes / chosen.size_bytes, "smaller", "larger"), sizes))
        if not isinstance(chosen.memory, NotRun) and not isinstance(reference.memory, NotRun):
            peaks = f"{reference.memory.peak_mb:.0f} → {chosen.memory.peak_mb:.0f} MB with libraries"
            found.append((than(reference.memory.peak_mb / chosen.memory.peak_mb, "less memory", "more memory"), peaks))
        costs = self.cost(reference), self.cost(chosen)
        if self.cost_withheld(reference) or self.cost_withheld(chosen):
            found.append(("cost withheld", BUSY))
        elif costs[0] is not None and costs[1] is not None:
            price = f"{costs[0]:.3g} → {costs[1]:.3g} for a million images"
            found.append((than(costs[0] / costs[1], "cheaper", "dearer"), price))
        return found

    def factors_of_speed(self, candidate: CandidateResult) -> list[tuple[Interval, str]]:
        """How many times faster it is, and than what: first the teacher's own file, then the reference."""
        timed = self.primary(candidate)
        fair = [(timed.like_for_like.speedup, timed.like_for_like.reference)] if timed and timed.like_for_like else []
        return fair + ([(timed.speedup, self.benchmark.reference)] if timed and timed.speedup else [])

    @property
    def rows(self) -> list[CandidateResult]:
        """Those in the table of candidates."""
        return folded.with_a_row(self.benchmark)

    @property
    def not_run(self) -> folded.Folded:
        """Why candidates were neither scored nor timed, each reason with their names."""
        return folded.not_run(self.benchmark)

    @property
    def not_timed(self) -> folded.Folded:
        """Why candidates were scored and not timed."""
        return folded.not_timed(self.benchmark)

    def primary(self, candidate: CandidateResult) -> Latency | None:
        return plots.primary_latency(self.benchmark, candidate.name)

    def best_throughput(self, candidate: CandidateResult) -> Latency | None:
        """End-to-end, at the batch and number of threads that do most images a second."""
        if isinstance(candidate.latency, NotRun):
            return None
        ends = [entry for entry in candidate.latency if entry.scope == "end-to-end"]
        return max(ends, key=lambda entry: entry.images_per_s.value, default=None)

    def cost(self, candidate: CandidateResult) -> float | None:
        """Of a million inferences, in the currency of benchmark.price_per_hour. None where that is not set.

        None, too, where other work disturbed the throughput.
        """
        price, best = self.benchmark.settings.limits.get("price_per_hour"), self.best_throughput(candidate)
        return price / 3600 * 1e6 / best.images_per_s.value if price and best and not best.contended else None

    def cost_withheld(self, candidate: CandidateResult) -> bool:
        """Whether there is a price, and other work disturbed the throughput."""
        best = self.best_throughput(candidate)
        return bool(self.benchmark.settings.limits.get("price_per_hour") and best and best.contended)

    def no_factor(self, candidate: CandidateResult) -> str:
        """Why there is no factor of its speed."""
        timed = self.primary(candidate)
        return BUSY if timed and timed.contended else f"not timed with {self.words.the}"

    @property
    def batches(self) -> list[BatchRow]:
        """Latency and throughput of every candidate at each batch."""
        return batch_rows(self.benchmark)

    @property
    def p99_note(self) -> str:
        """Why p99 is missing, and what gives it."""
        return p99_note(self.benchmark, self.batches)

    def against_reference(self, name: str) -> Comparison | None:
        reference, pairs = self.benchmark.reference, self.benchmark.comparisons
        return next((entry for entry in pairs if (entry.reference, entry.candidate) == (reference, name)), None)

    @property
    def lossy(self) -> list[Comparison]:
        """Those whose flips are listed: the recommended file against the reference, and precisions against FP32."""
        chosen = self.benchmark.verdict.recommended
        pairs = self.benchmark.comparisons
        return [entry for entry in pairs if entry.reference != self.benchmark.reference or entry.candidate == chosen]


def _check_same_data(views: Sequence[View]) -> None:
    """Raises InputError where accuracies that stand side by side are of one data set and of other images."""
    seen: dict[tuple[str, ...], Benchmark] = {}
    for view in views:
        benchmark = view.benchmark
        name = benchmark.data.name  # of own pictures it is how they lie: the classes tell those apart
        first = seen.setdefault((name, *(benchmark.data.class_names if name in _OWN else ())), benchmark)
        for what in ("class_names", "sha256", "eval_split"):
            if getattr(first.data, what) != getattr(benchmark.data, what):
                named = {"class_names": "classes", "sha256": "images or labels", "eval_split": "evaluation split"}[what]
                raise InputError(
                    f"{first.run} and {benchmark.run} are both on {first.data.name}, but their {named} differ",
                    "Their accuracies cannot be compared: report on them one by one.",
                )
