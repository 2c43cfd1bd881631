"""The result table of a sweep: one HTML page without external requests, Markdown, and JSON.

In: a Sweep. Everything is rendered before anything is written.
"""

import json
import logging
from datetime import datetime
from pathlib import Path

from markupsafe import Markup

from compress.system import files
from export.report import plots
from export.report.page import environment
from export.report.sweep_results import Sweep

logger = logging.getLogger(__name__)


def write_sweep(sweep: Sweep, folder: Path) -> list[Path]:
    """Writes the table of a sweep. An earlier one that had runs which this one has not is kept, its date in its name.

    Args:
        sweep: what the runs came to.
        folder: where the files go; it is made.

    Returns:
        FOLDER/RECIPE-sweep.html, .md and .json.

    Raises:
        MachineError: they cannot be written.
    """
    written = {
        ".html": _rendered("sweep.html.j2", sweep, plot=Markup(plots.dots(sweep))),
        ".md": sweep_markdown(sweep),
        ".json": json.dumps(sweep.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    paths = [folder / f"{sweep.recipe}-sweep{ending}" for ending in written]
    _set_aside(paths, {run.name for run in sweep.runs})
    for path, text in zip(paths, written.values(), strict=True):
        files.write_bytes(path, text.encode())
    return paths


def _set_aside(paths: list[Path], runs: set[str]) -> None:
    try:
        before = {run["name"] for run in json.loads(paths[-1].read_text(encoding="utf-8"))["runs"]}
    except (OSError, ValueError, TypeError, KeyError):
        return  # none is there, or none of ours
    if before <= runs:
        return
    written = datetime.fromtimestamp(paths[-1].stat().st_mtime)
    for path in filter(Path.exists, paths):
        kept = path.with_stem(f"{path.stem}-{written:%Y%m%d-%H%M%S}")
        try:
            path.replace(kept)
        except OSError as error:
            raise files.cannot_write(kept, error) from error
        logger.info(f"{path} had other runs, and is now {kept}")


def sweep_markdown(sweep: Sweep) -> str:
    """The table as Markdown."""
    return _rendered("sweep.md.j2", sweep)


def _rendered(template: str, sweep: Sweep, **more: Markup) -> str:
    templates = environment()
    templates.filters["p_value"] = p_value
    teachers: dict[int, set[str | None]] = {}
    for run in sweep.runs:
        if run.status == "finished":
            teachers.setdefault(run.seed, set()).add(run.teacher_sha256)
    differences = [arm.difference for arm in sweep.arms if arm.difference is not None]
    return templates.get_template(template).render(
        sweep=sweep,
        failed=[run for run in sweep.runs if run.status == "failed"],
        alone=len(sweep.arms) > 1 and not any(arm.finished for arm in sweep.arms if arm.name == sweep.baseline),
        single=any(arm.finished == 1 for arm in sweep.arms) or any(len(each.seeds) == 1 for each in differences),
        several_teachers=any(len(of_a_seed) > 1 for of_a_seed in teachers.values()),
        alike=any(each.p is None and len(each.seeds) > 1 for each in differences),
        **more,
    )


def p_value(p: float) -> str:
    """A p-value as people read it."""
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"
