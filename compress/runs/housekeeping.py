"""Lists runs with their size on disk, and removes what is not needed.

In: the folder of runs. Out: a row for each run, or the paths that can go with their sizes.
"""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.runs.folder import (
    MANIFEST,
    Run,
    TeacherFolder,
    all_runs,
    assistants_root,
    read_teacher_record,
    runs_root,
    teachers_root,
)
from compress.runs.locks import LOCK, is_held
from compress.system import files
from compress.system.errors import InputError, MachineError


def list_runs() -> list[dict[str, Any]]:
    """A row for each run below runs/, oldest first.

    Returns:
        Dictionaries that JSON can hold. Accuracies are fractions, `megabytes` counts 10^6 bytes.
    """
    rows = []
    for run in all_runs():
        manifest = run.manifest
        rows.append(
            {
                "run": str(run.path),
                "recipe": manifest.recipe,
                "method": manifest.method,
                "seed": manifest.seed,
                "status": _status(run),
                "teacher_top1": manifest.teacher_top1,
                "student_top1": manifest.student_top1,
                "started": manifest.started,
                "megabytes": round(_size(run.path) / 1e6, 1),
            }
        )
    return rows


def prune(*, failed: bool = False, remove: bool = False) -> list[tuple[Path, int]]:
    """What can go, with its size in bytes. Only `remove` removes it.

    - Checkpoints of finished runs. Such a run can then not be extended.
    - Kept teachers and assistants to which no run refers. Runs of sweeps and studies in folders further down count too.
    - With `failed`: runs and teachers that did not finish.

    Folders that a process holds are left alone. Teachers and assistants stay while any run is not finished.

    Raises:
        MachineError: a folder cannot be removed.
    """
    candidates: list[Path] = []
    runs = all_runs()
    for run in runs:
        if run.manifest.finished:
            candidates += [run.checkpoints, run.qat_checkpoints]
        elif failed and run.manifest.student_sha256 is None:  # a run that was finished once keeps its student
            candidates.append(run.path)
    kept = [run.manifest for run in [*runs, *_further_down()] if run.path not in candidates]
    if all(manifest.finished for manifest in kept):
        teachers = [manifest.teacher for manifest in kept if manifest.teacher is not None]
        used = {one.sha256 for teacher in teachers for one in [teacher, *(teacher.members or [])]}
        used |= {assistant.sha256 for manifest in kept for assistant in manifest.assistants}
        for path in files.entries(teachers_root()):
            folder = TeacherFolder(path)
            if not os.path.exists(folder.training_files.metrics):
                continue
            sha256 = _teacher_sha256(folder)
            if sha256 not in used and (sha256 is not None or failed):
                candidates.append(path)
        for run in all_runs(assistants_root()):
            sha256 = run.manifest.student_sha256
            if sha256 not in used and (sha256 is not None or failed):
                candidates.append(run.path)
    return [(path, size) for path in candidates if path.exists() and (size := _remove(path, remove)) is not None]


def _further_down() -> list[Run]:
    """Runs of sweeps and studies, which have their own folder."""
    own = [runs_root(), teachers_root(), assistants_root()]
    parents = {
        Path(path).parent
        for outer in files.entries(runs_root())
        for inner in files.entries(outer)
        for path, _, names in os.walk(inner)
        if MANIFEST in names
    }
    return [run for parent in sorted(parents.difference(own)) for run in all_runs(parent)]


def _status(run: Run) -> str:
    status = run.manifest.status
    return "interrupted" if status == "running" and not is_held(run.path) else status


def _remove(path: Path, remove: bool) -> int | None:
    """The size in bytes, or None where a process holds it."""
    holder = path if os.path.exists(path / LOCK) else path.parent
    lock = FileLock(holder / LOCK)
    try:
        with lock.acquire(timeout=0):
            size = _size(path)
            if remove:
                shutil.rmtree(path)
            return size
    except Timeout:
        return None
    except OSError as error:
        raise MachineError(f"cannot remove {path}: {error.strerror}") from error


def _teacher_sha256(folder: TeacherFolder) -> str | None:
    try:
        return read_teacher_record(folder.model).sha256
    except InputError:
        return None


def _size(folder: Path) -> int:
    """Bytes of the files that can be seen. Another process may remove some meanwhile."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(path, name)).st_size
    return size
