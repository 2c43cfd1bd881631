"""The run folder: all its paths, its manifest, and how runs are found again.

In: a path or a recipe. Out: a Run. Runs share teachers and assistants below one root: $COMPRESS_RUNS, else runs/.
"""

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.recipe import Recipe, load_recipe, recipe_yaml
from compress.runs.locks import HOLDER, LOCK, in_use, is_held
from compress.runs.records import FinishedManifest, Manifest, TeacherRecord
from compress.system import files
from compress.system.errors import InputError, MachineError
from compress.system.paths import user_path
from compress.training.files import TrainingFiles

MANIFEST = "manifest.json"


def runs_root() -> Path:
    """The folder of runs, teachers and assistants: $COMPRESS_RUNS, else runs/ in the working folder."""
    return user_path(os.environ.get("COMPRESS_RUNS") or "runs")


def teachers_root() -> Path:
    """The folder of the trained teachers that runs share."""
    return runs_root() / "teachers"


def assistants_root() -> Path:
    """The folder of the assistants that runs share. Each is a run."""
    return runs_root() / "assistants"


@dataclass(frozen=True)
class Run:
    """A run folder that exists.

    The manifest is read again at each use, since another process may be writing it.
    """

    path: Path

    @property
    def manifest_file(self) -> Path:
        return self.path / MANIFEST

    @property
    def manifest(self) -> Manifest:
        """The manifest as it is now.

        Raises:
            InputError: the folder is no run, or its manifest is damaged or of a newer version.
        """
        return read_manifest(self.path)

    @property
    def result(self) -> FinishedManifest:
        """The manifest of a finished run.

        Raises:
            InputError: the run is not finished, or its manifest lacks a result.
        """
        self.check_finished()
        return FinishedManifest.read(self.manifest_file)

    def check_finished(self) -> None:
        """Raises InputError where the run is not finished."""
        if not (manifest := self.manifest).finished:
            raise InputError(
                f"run {self.path} is not finished, but {manifest.status}", "Go on with `compress distill --resume`."
            )

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of the run.

        Raises:
            UsageError: it is damaged, or there is none.
            InputError: it cannot be read.
        """
        return load_recipe(self.recipe_file)

    @property
    def student(self) -> Path:
        return self.path / "student"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher"

    @property
    def assistant(self) -> Path:
        """The last of the teacher's assistants, from which the student learns. Only runs with assistants have it."""
        return self.path / "assistant"

    @property
    def metrics(self) -> Path:
        return self.training_files.metrics

    @property
    def checkpoints(self) -> Path:
        return self.training_files.checkpoints

    @property
    def qat_checkpoints(self) -> Path:
        """The checkpoints of the fine-tuning for INT8 (train.quantize)."""
        return self.path / "checkpoints-quantize"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def benchmark_file(self) -> Path:
        return self.path / "benchmark.json"

    @property
    def report(self) -> Path:
        """The HTML page. The Markdown file beside it ends in .md."""
        return self.path / "report.html"

    @property
    def hub(self) -> Path:
        """The folder that `compress push` uploads."""
        return self.path / "hub"

    @property
    def training_files(self) -> TrainingFiles:
        """Where the student's training writes."""
        return TrainingFiles.below(self.path)

    def finished_files(self) -> dict[Path, bytes]:
        """The content of recipe.yaml and manifest.json if the run is finished, else {}."""
        if not self.manifest_file.exists() or not self.manifest.finished:
            return {}
        return {path: path.read_bytes() for path in (self.recipe_file, self.manifest_file)}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Sets entries of the manifest. None removes an entry.

        Raises:
            InputError: the manifest is gone or damaged.
            MachineError: it cannot be written.
        """
        Manifest.model_validate({**self.manifest.dump(), **changes}).write(self.manifest_file)

    def write_recipe(self, recipe: Recipe) -> None:
        """Writes recipe.yaml. Raises MachineError where it cannot be written."""
        files.write_bytes(self.recipe_file, recipe_yaml(recipe).encode())


@dataclass(frozen=True)
class TeacherFolder:
    """A trained teacher, kept for every run that asks for the same one: runs/teachers/HASH."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def training_files(self) -> TrainingFiles:
        """Where the teacher's training writes."""
        return TrainingFiles.below(self.path)

    @property
    def trained(self) -> bool:
        """Whether the teacher is there in full: its record is written last."""
        return teacher_record_file(self.model).exists()


def teacher_record_file(model_folder: Path) -> Path:
    """The file with what was measured of the teacher in that model folder."""
    return model_folder / "facts.json"


def read_teacher_record(model_folder: Path) -> TeacherRecord:
    """What was measured of the teacher. Raises InputError where the file is damaged or missing."""
    path = teacher_record_file(model_folder)
    try:
        return TeacherRecord.read(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None


def new_run(recipe: Recipe, name: str, out: Path | None) -> Run:
    """Makes a run folder.

    Args:
        recipe: resolved; its method and seed are part of the folder's name.
        name: the first part of the folder's name.
        out: the folder itself, if the user chose one.

    Raises:
        MachineError: `out` is in use or not empty, or the folder cannot be made.
    """
    path = out or _unused(runs_root() / f"{name}-{recipe.supervision.method}-s{recipe.train.seed}-{timestamp()}")
    run = Run(path)
    if path.is_dir() and (path / LOCK).exists() and is_held(path):
        raise in_use(path)
    if path.exists() and not path.is_dir():
        raise MachineError(f"{path} is a file, and a run is a folder", "Choose another --out.")
    leftovers = {run.recipe_file.name, LOCK, HOLDER}  # left by a run that ended before its first manifest
    if path.exists() and {entry.name for entry in path.iterdir()} - leftovers:
        hint = "Choose another --out."
        if run.manifest_file.exists():
            finished = run.manifest.finished
            hint = "It holds a finished run: choose another --out." if finished else f"{hint[:-1]}, or --resume it."
        raise MachineError(f"{path} is not empty", hint)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    return run


def read_manifest(path: Path) -> Manifest:
    """The manifest in a folder.

    Raises:
        InputError: the folder is no run, or its manifest is damaged or of a newer version.
    """
    if path.is_file():
        raise InputError(f"{path} is a file, and a run is a folder", "Give the folder that holds it.")
    try:
        return Manifest.read(path / MANIFEST)
    except FileNotFoundError:
        raise InputError(f"{path} is not a run folder: it has no {MANIFEST}", "See `compress runs list`.") from None


def all_runs(root: Path | None = None) -> list[Run]:
    """The runs directly below a folder, oldest first. Folders without a readable manifest are left out.

    Args:
        root: runs/ by default (`runs_root`).
    """
    runs: list[tuple[str, Run]] = []
    for path in files.entries(root or runs_root()):
        try:
            runs.append((read_manifest(path).started, Run(path)))
        except (InputError, OSError):  # no run, or none that can be read
            continue
    return [run for _, run in sorted(runs, key=lambda pair: (pair[0], str(pair[1].path)))]


def finished_run(path: Path | None) -> Run:
    """The run at `path`, or without a path the newest finished run below runs/.

    Raises:
        InputError: the folder is no run, the run is not finished, or there is no finished run.
    """
    if path is not None:
        run = Run(path)
        run.check_finished()
        return run
    finished = [run for run in all_runs() if run.manifest.finished]
    if not finished:
        raise InputError(f"no finished run in {runs_root()}/", "Start one with `compress distill RECIPE`.")
    return finished[-1]


def timestamp() -> str:
    """The time now as YYYYMMDD-HHMMSS, UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")


def now() -> str:
    """The time now in ISO 8601, UTC, to the microsecond. Such texts sort in the order of time."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
