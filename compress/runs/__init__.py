"""From a recipe to a finished run folder.

In: a Recipe. Out: a Run, with its student, teacher and manifest on disk.
"""

from compress.runs.distillation import distill, distill_in_steps
from compress.runs.folder import Run, all_runs, finished_run
from compress.runs.student import load_student

__all__ = ["Run", "all_runs", "distill", "distill_in_steps", "finished_run", "load_student"]
