"""From a recipe to a finished run folder.

In: a Recipe. Out: a Run, with its student, teacher and manifest on disk.

Commands that list or read runs import this package, and neither torch nor timm.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.runs.distillation import distill, distill_in_steps
    from compress.runs.folder import Run, all_runs, finished_run
    from compress.runs.student import load_student

__all__ = ["Run", "all_runs", "distill", "distill_in_steps", "finished_run", "load_student"]

__getattr__ = hand_on(
    __name__,
    {
        "distill": "compress.runs.distillation",
        "distill_in_steps": "compress.runs.distillation",
        "Run": "compress.runs.folder",
        "all_runs": "compress.runs.folder",
        "finished_run": "compress.runs.folder",
        "load_student": "compress.runs.student",
    },
)
