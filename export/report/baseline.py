"""Answers whether plain training would have done: the same student, trained by the labels alone.

In: a finished run. Out: a sentence with the runs of method ce beside it, or the command that makes one.
"""

from statistics import mean

from compress.recipe import Data, Recipe, Student, Train
from compress.recipe.train import HOUSEKEEPING
from compress.runs.folder import Run, all_runs
from compress.system.errors import CompressError


def plain_training(run: Run) -> str:
    """A sentence for people. Empty where the run itself was trained by the labels alone.

    Runs of method ce without terms count, if they lie in the same folder and have the same data, student and training,
    with any seed. The one with this run's seed comes first.

    Args:
        run: empty, too, where its recipe or manifest is gone: a report needs benchmark.json alone.
    """
    try:
        recipe, manifest = run.recipe, run.result
    except (CompressError, OSError):
        return ""
    if _by_labels_alone(recipe):
        return ""
    found = {other.recipe.train.seed: other.result.student_top1 for other in _others(run, recipe)}
    start = " fine-tuned" if recipe.student.published else ""
    if not found:
        terms = " --set supervision.terms=[]" if recipe.supervision.terms else ""
        return (
            f"Would labels alone have done? Not measured: `compress distill {manifest.recipe} --method ce{terms}` with "
            "the same settings, in the same folder, tells."
        )
    if (top1 := found.get(recipe.train.seed)) is not None:
        which, baseline = "with the same seed", top1
    else:
        which, baseline = f"mean of {len(found)} {'seed' if len(found) == 1 else 'seeds'}", mean(found.values())
    return (
        f"Would labels alone have done? The same student,{start} by labels alone: top-1 {100 * baseline:.2f} % "
        f"({which}). This one: {100 * manifest.student_top1:.2f} %, {100 * (manifest.student_top1 - baseline):+.2f} "
        "points, before export."
    )


def _by_labels_alone(recipe: Recipe) -> bool:
    return recipe.supervision.method == "ce" and not recipe.supervision.terms


def _others(run: Run, recipe: Recipe) -> list[Run]:
    """The finished runs beside this one that differ from it by labels alone, and perhaps by the seed."""
    found = []
    for other in all_runs(run.path.resolve().parent):
        try:
            theirs, same_data = other.recipe, other.result.data.sha256 == run.result.data.sha256
        except (CompressError, OSError):  # not finished, damaged, or not to be read
            continue
        if same_data and _by_labels_alone(theirs) and _compared(theirs) == _compared(recipe):
            found.append(other)
    return found


def _compared(recipe: Recipe) -> tuple[Data, Student, Train]:
    """What must be the same in both. The place of the data, the seed and housekeeping may differ."""
    fixed = {key: Train.model_fields[key].default for key in ("seed", *HOUSEKEEPING)}
    return recipe.data.anywhere, recipe.student, recipe.train.model_copy(update=fixed)
