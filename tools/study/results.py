"""What a study came to, as JSON, Markdown and plots. The statistics are those of `compress sweep`.

In: finished runs below runs/. Out: NAME.md, NAME-*.png and what they are made of: NAME.json, and NAME-confusion.json
for the plot of single samples. Accuracies are fractions in JSON, and percent in Markdown.
"""

import itertools
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from plan import Study, Tuning, Values, final_cells
from plots import CAPTIONS, MEASURES_SHOWN, confusion, plots, shown
from run import Progress, Tried, planned, tuning_results, winners
from scipy.stats import mannwhitneyu
from state import MEASURES, is_finished

from compress.runs.folder import Run, now
from compress.sweeps.cells import Cell
from compress.sweeps.lockstep import Outcome
from compress.sweeps.run import results
from compress.system import files
from compress.system.errors import DivergedError
from compress.system.files import write_bytes, write_json
from compress.training.metrics import read_metrics
from export.report.formats import percent, points, points_range
from export.report.sweep import p_value, sweep_markdown
from export.report.sweep_results import Difference, Sweep, SweepRun, compare, paired_differences

SCHEMA_VERSION = 1
_COMPARED = (
    "Each setting has one teacher, trained on what tuning left of train. The final students are trained on all of "
    "train and evaluated on the official split after the last epoch. Differences are paired by seed."
)
_SEARCHED = "It is a search alone, without final runs."


def write_results(progress: Progress, study_file: Path, out: Path) -> list[Path]:
    """Writes the files into `out` and returns their paths. Of some settings, the names of those are in theirs."""
    study = progress.study
    stem = "-".join([study.name, *(progress.settings if len(progress.settings) < len(study.settings) else [])])
    content = collect(progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(out, error) from error
    figures = plots(content) if content["settings"] else {}
    names = {title: f"{stem}-{title}.png" for title in figures}
    for title, png in figures.items():
        write_bytes(out / names[title], png)
    write_bytes(out / f"{stem}.md", markdown(study, content, study_file, names).encode())
    others = list(names.values())
    if "confusion" in names:
        others.append(f"{stem}-confusion.json")
        write_bytes(out / others[-1], (json.dumps(confusion(content)) + "\n").encode())
    for setting in content["settings"].values():
        for run in setting["runs"]:
            run["measures"] = {**run["measures"], "temperatures": None} if run["measures"] else None
    write_json(out / f"{stem}.json", content)
    return [out / f"{stem}{ending}" for ending in (".json", ".md")] + [out / name for name in others]


def collect(progress: Progress) -> dict[str, Any]:
    """All that is known: the tuning, and for each setting its teacher, its comparison and its runs."""
    study = progress.study
    tuning = tuning_results(study)
    chosen = winners(tuning)
    settings = {}
    for setting in progress.settings:
        cells = final_cells(study, setting, progress.teachers[setting], chosen)
        outcomes: dict[str, Outcome] = {
            cell.name: Run(cell.folder) if is_finished(cell.folder) else DivergedError("it diverged") for cell in cells
        }
        sweep = compare(f"{study.name}, {setting}", results(cells, outcomes), study.baseline)
        runs = [_run(cell) for cell in cells if is_finished(cell.folder)]
        adjusted = [line["adjusted"] for run in runs if run["method"].startswith("ka-") for line in run["epochs"]]
        settings[setting] = {
            "values": study.settings[setting],
            "teacher": {
                "folder": str(progress.teachers[setting]),
                "sha256": runs[0]["teacher_sha256"] if runs else None,
                "top1": runs[0]["teacher_top1"] if runs else None,
                "augmented_train_top1": 1 - mean(adjusted) if adjusted else None,
                "measures": runs[0]["measures"]["teacher"] if runs else None,
            },
            "comparison": sweep.model_dump(mode="json"),
            "runs": runs,
        }
    sweeps = {name: Sweep.model_validate(setting["comparison"]) for name, setting in settings.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "study": study.name,
        "study_sha256": study.sha256,
        "date": now(),
        "baseline": study.baseline,
        "tuning": study.tune
        and {
            **study.tune.model_dump(mode="json", exclude={"grid"}),
            "arms": {arm: [_tried(one, tried[0], chosen[arm]) for one in tried] for arm, tried in tuning.items()},
        },
        "settings": settings,
        "across": {
            f"{other} against {first}": {arm: found.model_dump(mode="json") for arm, found in arms.items()}
            for first, other in itertools.combinations(sweeps, 2)
            if (arms := across(sweeps[first], sweeps[other]))
        },
        "made_with": _made_with(progress),
    }


def across(first: Sweep, other: Sweep) -> dict[str, Difference]:
    """What each arm has in another setting less what it has in the first, by seed, where both have the same teacher."""
    finished = {(run.arm, run.seed): run for run in first.runs if run.status == "finished"}
    pairs: dict[str, list[tuple[SweepRun, SweepRun]]] = {}
    for run in other.runs:
        one = finished.get((run.arm, run.seed))
        if run.status == "finished" and one and (one.teacher_sha256, one.data) == (run.teacher_sha256, run.data):
            pairs.setdefault(run.arm, []).append((one, run))
    return paired_differences(pairs)


def _tried(one: Tried, first: Tried, chosen: Values) -> dict[str, Any]:
    """differences: against the arm's first configuration, one for each seed."""
    both = one is not first and not (one.failed or first.failed)
    differences = [own - other for own, other in zip(one.top1, first.top1, strict=True)] if both else None
    return {**vars(one), "mean": one.mean, "differences": differences, "chosen": one.values == chosen}


def _made_with(progress: Progress) -> list[tuple[str, dict[str, str]]]:
    """The devices and the versions of all runs, each pair once."""
    seen = set()
    for name, _, _ in planned(progress):
        if is_finished(folder := progress.study.folder / name):
            manifest = Run(folder).manifest
            seen.add((manifest.device, json.dumps(manifest.versions)))
    return [(device, json.loads(versions)) for device, versions in sorted(seen)]


def _run(cell: Cell) -> dict[str, Any]:
    """A finished run. epochs: the student's lines of metrics.jsonl."""
    run = Run(cell.folder)
    manifest = run.result
    measures = cell.folder / MEASURES
    kept = {"method", "student_top1", "teacher_top1", "student_sha256", "recipe_sha256", "seconds"}
    kept |= {"device", "versions"}
    return {
        "name": cell.name,
        "arm": cell.arm,
        "seed": cell.seed,
        **manifest.model_dump(include=kept),
        "teacher_sha256": manifest.teacher.sha256,
        "data_sha256": manifest.data.sha256,
        "measures": json.loads(measures.read_text(encoding="utf-8")) if measures.exists() else None,
        "epochs": [line for line in read_metrics(run.metrics) if line["phase"] == "student"],
    }


def markdown(study: Study, content: dict[str, Any], study_file: Path, figures: dict[str, str]) -> str:
    lines = [
        f"# Study {study.name}",
        "",
        f"Made by `python tools/study/reproduce.py {_shown(study_file)}`, in any number of calls "
        f"(`--budget-minutes M --resume`). {_tuned(study)} Runs of one seed share initial weights, and batches and "
        f"augmentation where their data is the same. {_COMPARED if study.seeds else _SEARCHED}",
    ]
    for name, setting in content["settings"].items():
        lines += ["", *_setting_lines(name, setting, Sweep.model_validate(setting["comparison"]))]
    for title, arms in content["across"].items():
        lines += ["", f"## {title}", "", "| arm | seeds | points | p | p, Holm |", "|---|---:|---:|---:|---:|"]
        lines += [_across_line(arm, Difference.model_validate(found)) for arm, found in arms.items()]
        lines += ["", "Both have the same teacher; differences are paired by seed as above."]
    if study.tune is not None:
        lines += _tuning_lines(study.tune, content["tuning"]["arms"])
    lines += ["", "## Arms", "", "| arm | method | sets |", "|---|---|---|"]
    lines += [
        f"| {arm.name} | {f'`{arm.method}`' if arm.method else 'of the setting'} | {_values(arm.set)} |"
        for arm in study.arms
    ]
    if figures:
        lines += ["", "## Plots"]
    for title, file in figures.items():
        lines += ["", f"![{CAPTIONS[title]}]({file})", "", CAPTIONS[title]]
    lines += [
        "",
        "## Versions",
        "",
        f"Final seeds: {_list(study.seeds) or 'none'}; study {study.sha256[:16]}; {content['date'][:10]}.",
        "",
    ]
    for device, versions in content["made_with"]:
        lines.append(f"- {device}: " + ", ".join(f"{name} {version}" for name, version in versions.items()))
    return "\n".join(lines) + "\n"


def _setting_lines(name: str, setting: dict[str, Any], sweep: Sweep) -> list[str]:
    teacher = setting["teacher"]
    lines = [sweep_markdown(sweep).strip(), ""]
    if teacher["top1"] is not None:
        line = f"The teacher ({Path(teacher['folder']).name}) has {percent(teacher['top1'])} on the evaluation split"
        if (agrees := teacher["augmented_train_top1"]) is not None:
            line += f", and agrees with {percent(agrees)} of the labels of augmented train: KA changes the rest"
        lines.append(f"{line}.")
    measured = [run for run in setting["runs"] if run["measures"]]
    if not measured:
        return lines
    lines += ["", f"| {name}: arm | {' | '.join(MEASURES_SHOWN.values())} |", "|---|---:|---:|---:|"]
    for arm in sweep.arms:
        runs = [run for run in measured if run["arm"] == arm.name]
        cells = [_mean_sd([shown(run["measures"], key) for run in runs]) for key in MEASURES_SHOWN]
        lines.append(f"| {arm.name} | {' | '.join(cells)} |")
    own = measured[0]["measures"]["teacher"]
    lines.append(f"| teacher, on the student's pictures | – | {100 * own['ece']:.2f} | {own['nll']['value']:.2f} |")
    return lines + _temperature_lines(name, measured)


def _across_line(arm: str, found: Difference) -> str:
    interval = points_range(found.interval) if found.interval else "no interval"
    p_values = [p_value(p) if p is not None else "–" for p in (found.p, found.holm_p)]
    return f"| {arm} | {len(found.seeds)} | {points(found.mean)} ({interval}) | {' | '.join(p_values)} |"


def _temperature_lines(name: str, measured: list[dict[str, Any]]) -> list[str]:
    """Whether DTD is cooler where the finished student is wrong: the area under the ROC curve is then above 50 %."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for run in measured:
        if points := run["measures"]["temperatures"]:
            each, right = np.array(points["temperature"]), np.array(points["right"]) == 1
            if 0 < right.sum() < len(right):
                area = mannwhitneyu(each[right], each[~right]).statistic / (right.sum() * (~right).sum())
                found.setdefault(run["arm"], []).append((each[right].mean(), each[~right].mean(), 100 * area))
    if not found:
        return []
    lines = ["", f"| {name}: temperature | student right | student wrong | area under ROC, % |", "|---|---:|---:|---:|"]
    return lines + [
        f"| {arm} | {' | '.join(_mean_sd(list(values)) for values in zip(*rows, strict=True))} |"
        for arm, rows in found.items()
    ]


def _mean_sd(values: list[float]) -> str:
    if not values:
        return "–"
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _tuned(study: Study) -> str:
    if study.tune is None:
        return "No arm was tuned."
    return (
        f"Every arm was tuned with {len(next(iter(study.grid.values())))} configurations on "
        f"{100 * study.tune.holdout:g} % of the training images of {study.tune.setting}, which neither students nor "
        "teacher were trained on. What won there is used in every setting."
    )


def _tuning_lines(tune: Tuning, arms: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Tuning",
        "",
        f"Epochs: {tune.epochs}; seeds: {_list(tune.seeds)}. Top-1 on what was held "
        "out, after the last epoch. The best mean wins, of equal ones the first.",
        "",
        "| arm | configuration, beside what the arm sets | held-out top-1 | less the first, points, by seed | |",
        "|---|---|---:|---:|---|",
    ]
    for arm, tried in arms.items():
        for one in tried:
            score = "failed" if one["mean"] is None else percent(one["mean"])
            less = ", ".join(map(points, one["differences"] or [])) or "–"
            won = "chosen" if one["chosen"] else ""
            lines.append(f"| {arm} | {_values(one['values'])} | {score} | {less} | {won} |")
    return lines


def _values(values: Values) -> str:
    return ", ".join(f"`{key}: {value}`" for key, value in values.items()) or "–"


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))


def _shown(study_file: Path) -> Path:
    """As it is named from the project's folder, where it lies there."""
    project, path = Path(__file__).parents[2], study_file.resolve()
    return path.relative_to(project) if path.is_relative_to(project) else study_file
