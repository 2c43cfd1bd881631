"""The result table of a sweep: one HTML page without external requests, Markdown, and JSON.

In: a Sweep. Everything is rendered before anything is written.
"""

import json
from pathlib import Path

from markupsafe import Markup

from compress import files
from export import plots
from export.report import environment
from export.sweep_results import Sweep


def write_sweep(sweep: Sweep, folder: Path) -> list[Path]:
    """Writes FOLDER/RECIPE-sweep.html, .md and .json, and returns their paths."""
    templates = environment()
    templates.filters["p_value"] = p_value
    content = {
        "sweep": sweep,
        "failed": [run for run in sweep.runs if run.status == "failed"],
        "single": any(arm.finished == 1 for arm in sweep.arms),
        "alike": any(
            arm.difference is not None and arm.difference.p is None and len(arm.difference.seeds) > 1
            for arm in sweep.arms
        ),
        "plot": Markup(plots.dots(sweep)),
    }
    written = {
        ".html": templates.get_template("sweep.html.j2").render(content),
        ".md": templates.get_template("sweep.md.j2").render(content),
        ".json": json.dumps(sweep.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    paths = [folder / f"{sweep.recipe}-sweep{ending}" for ending in written]
    for path, text in zip(paths, written.values(), strict=True):
        files.write_bytes(path, text.encode())
    return paths


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 0.0001 else "< 0.0001"
