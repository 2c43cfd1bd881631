"""What a sweep came to: the schema of its JSON, and its arms compared over seeds.

In: the rows of compress.sweeps.cells.results. Out: a Sweep. Accuracies, differences and their intervals are fractions.
"""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any, Literal

from pydantic import Field

from compress.recipe import Section
from compress.runs.folder import now
from export import statistics
from export.benchmark import Interval

SCHEMA_VERSION = 1


class EvaluatedOn(Section):
    """The images that accuracies are of."""

    name: str
    eval_split: str
    eval_images: int


class SweepRun(Section):
    """One run of the sweep; what is null was not measured, since the run failed with `error`."""

    name: str
    arm: str
    seed: int
    run: str
    status: Literal["finished", "failed"]
    student_top1: float | None = None
    teacher_top1: float | None = None
    student_sha256: str | None = None
    teacher_sha256: str | None = None
    data: EvaluatedOn | None = None
    error: str | None = None


class Difference(Section):
    """Student top-1 of an arm less that of the baseline with the same seed, over the seeds that both finished.

    Runs that were evaluated on other images are no pair.
    """

    seeds: list[int]
    mean: float
    interval: Interval | None = Field(description="95 %, Student's t; null for one seed or where all are alike.")
    p: float | None = Field(description="Two-sided, paired t-test; null where the interval is.")
    holm_p: float | None = Field(description="p corrected for all the arms that are tested here (Holm 1979).")


class Arm(Section):
    """The runs that differ in their seed alone."""

    name: str
    finished: int
    failed: int
    mean: float | None = Field(description="Of student top-1; null where no run finished.")
    sd: float | None = Field(description="Standard deviation over seeds, n - 1 below the line; null for one seed.")
    difference: Difference | None = Field(description="null for the baseline, and without a seed in common with it.")


class Sweep(Section):
    """What `compress sweep` found."""

    schema_version: Literal[1] = SCHEMA_VERSION
    recipe: str
    date: str
    baseline: str
    data: list[EvaluatedOn] = Field(description="What the finished runs were evaluated on, as a rule one for all.")
    arms: list[Arm]
    runs: list[SweepRun]


def compare(recipe: str, rows: Sequence[Mapping[str, Any]], baseline: str) -> Sweep:
    """The arms of a sweep, each against one of them.

    Args:
        recipe: its name.
        rows: of compress.sweeps.cells.results, in the order of the arms.
        baseline: the arm that the others are compared with.
    """
    runs = [SweepRun.model_validate(row) for row in rows]
    finished: dict[str, dict[int, SweepRun]] = {run.arm: {} for run in runs}
    for run in runs:
        if run.status == "finished":
            finished[run.arm][run.seed] = run
    differences = _differences(finished, baseline)
    arms = []
    for name, by_seed in finished.items():
        top1 = [_top1(run) for run in by_seed.values()]
        arms.append(
            Arm(
                name=name,
                finished=len(top1),
                failed=sum(run.arm == name and run.status == "failed" for run in runs),
                mean=mean(top1) if top1 else None,
                sd=stdev(top1) if len(top1) > 1 else None,
                difference=differences.get(name),
            )
        )
    data = {run.data.model_dump_json(): run.data for run in runs if run.data is not None}
    return Sweep(recipe=recipe, date=now(), baseline=baseline, data=list(data.values()), arms=arms, runs=runs)


def _differences(finished: Mapping[str, Mapping[int, SweepRun]], baseline: str) -> dict[str, Difference]:
    """Of every arm that has a seed in common with the baseline, by name."""
    pairs: dict[str, list[tuple[SweepRun, SweepRun]]] = {}
    for name, by_seed in finished.items():
        both = [(run, by_seed[seed]) for seed, run in finished[baseline].items() if seed in by_seed]
        same = [(reference, candidate) for reference, candidate in both if reference.data == candidate.data]
        if name != baseline and same:
            pairs[name] = same
    return paired_differences(pairs)


def paired_differences(pairs: Mapping[str, Sequence[tuple[SweepRun, SweepRun]]]) -> dict[str, Difference]:
    """Of each arm the second runs less the first. Holm's p is for all arms together."""
    tests = {
        name: statistics.paired_t([_top1(run) for run, _ in same], [_top1(run) for _, run in same])
        for name, same in pairs.items()
    }
    tested = {name: test for name, test in tests.items() if test is not None}
    corrected = dict(zip(tested, statistics.holm([test.p for test in tested.values()]), strict=True))
    return {
        name: Difference(
            seeds=[run.seed for run, _ in same],
            mean=mean(_top1(candidate) - _top1(reference) for reference, candidate in same),
            interval=Interval.of(tested[name].difference) if name in tested else None,
            p=tested[name].p if name in tested else None,
            holm_p=corrected.get(name),
        )
        for name, same in pairs.items()
    }


def _top1(run: SweepRun) -> float:
    assert run.student_top1 is not None, run.name
    return run.student_top1
