"""The run folder: every path in it, its manifest, and how runs are found again.

What runs have in common (teachers, assistants) lies below one root: $COMPRESS_RUNS, else runs/.
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
from compress.training.loop import TrainingFiles

MANIFEST = "manifest.json"


def runs_root() -> Path:
    """Where runs, teachers and assistants are kept: $COMPRESS_RUNS, else runs/ of the working folder."""
    return Path(os.environ.get("COMPRESS_RUNS") or "runs")


def teachers_root() -> Path:
    return runs_root() / "teachers"


def assistants_root() -> Path:
    return runs_root() / "assistants"


@dataclass(frozen=True)
class Run:
    """A run folder that exists. Its manifest is read anew at each use: another process may be writing it."""

    path: Path

    @property
    def manifest_file(self) -> Path:
        return self.path / MANIFEST

    @property
    def manifest(self) -> Manifest:
        """Raises InputError where the folder is no run, or its manifest is damaged or of a newer version."""
        return read_manifest(self.path)

    @property
    def result(self) -> FinishedManifest:
        """The manifest of a finished run. Raises InputError where it is not finished or lacks what that means."""
        finished_run(self.path)
        return FinishedManifest.read(self.manifest_file)

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.recipe_file)

    @property
    def student(self) -> Path:
        return self.path / "student"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher"

    @property
    def assistant(self) -> Path:
        """The last of the teacher's assistants, from which the student learns; only where there are any."""
        return self.path / "assistant"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def qat_checkpoints(self) -> Path:
        """Of fine-tuning for INT8 (train.quantize)."""
        return self.path / "checkpoints-quantize"

    @property
    def export(self) -> Path:
        return self.path / "export"

    @property
    def benchmark_file(self) -> Path:
        return self.path / "benchmark.json"

    @property
    def report(self) -> Path:
        """The page; Markdown lies beside it with .md."""
        return self.path / "report.html"

    @property
    def hub(self) -> Path:
        """What `compress push` uploads."""
        return self.path / "hub"

    def training_files(self) -> TrainingFiles:
        return TrainingFiles(self.metrics, self.checkpoints, self.path / "tensorboard")

    def finished_files(self) -> dict[Path, bytes]:
        """The content of manifest and recipe where the run is finished, else nothing."""
        if not self.manifest_file.exists() or not self.manifest.finished:
            return {}
        return {path: path.read_bytes() for path in (self.recipe_file, self.manifest_file)}

    def update(self, changes: Mapping[str, Any]) -> None:
        """Sets these entries of the manifest; None removes one. Raises InputError where the manifest is gone."""
        Manifest.model_validate({**self.manifest.dump(), **changes}).write(self.manifest_file)

    def write_recipe(self, recipe: Recipe) -> None:
        files.write_bytes(self.recipe_file, recipe_yaml(recipe).encode())


@dataclass(frozen=True)
class TeacherFolder:
    """A teacher that was trained and is kept for every run that asks for the same one: runs/teachers/HASH."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def training_files(self) -> TrainingFiles:
        return TrainingFiles(self.metrics, self.checkpoints, self.path / "tensorboard")

    @property
    def trained(self) -> bool:
        return teacher_record_file(self.model).exists()


def teacher_record_file(model_folder: Path) -> Path:
    """What was measured of the teacher in that model folder."""
    return model_folder / "facts.json"


def read_teacher_record(model_folder: Path) -> TeacherRecord:
    """Raises InputError where it is damaged or missing."""
    path = teacher_record_file(model_folder)
    try:
        return TeacherRecord.read(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing") from None


def new_run(recipe: Recipe, name: str, out: Path | None) -> Run:
    """Makes the folder: `out`, or a name of its own below runs/. Raises MachineError where `out` holds something."""
    path = out or _unused(runs_root() / f"{name}-{recipe.supervision.method}-s{recipe.train.seed}-{timestamp()}")
    run = Run(path)
    if path.is_dir() and (path / LOCK).exists() and is_held(path):
        raise in_use(path)
    leftovers = {run.recipe_file.name, LOCK, HOLDER}  # of a run that ended before its first manifest
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - leftovers):
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
    """Raises InputError where the folder is no run, or its manifest is damaged or of a newer version."""
    try:
        return Manifest.read(path / MANIFEST)
    except FileNotFoundError:
        raise InputError(f"{path} is not a run folder: it has no {MANIFEST}", "See `compress runs list`.") from None


def all_runs(root: Path | None = None) -> list[Run]:
    """The runs below a folder, runs/ by default, oldest first.

    Folders without a manifest that can be read are passed over.
    """
    runs: list[tuple[str, Run]] = []
    for manifest in (root or runs_root()).glob(f"*/{MANIFEST}"):
        run = Run(manifest.parent)
        try:
            runs.append((run.manifest.started, run))
        except InputError:
            continue
    return [run for _, run in sorted(runs, key=lambda pair: (pair[0], str(pair[1].path)))]


def finished_run(path: Path | None) -> Run:
    """The run at `path`, which must be finished, or the newest finished one below runs/. Raises InputError."""
    if path is not None:
        run = Run(path)
        if not (manifest := run.manifest).finished:
            raise InputError(
                f"run {path} is not finished, but {manifest.status}", "Go on with `compress distill --resume`."
            )
        return run
    finished = [run for run in all_runs() if run.manifest.finished]
    if not finished:
        raise InputError(f"no finished run in {runs_root()}/", "Start one with `compress distill RECIPE`.")
    return finished[-1]


def timestamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")


def now() -> str:
    """ISO 8601, UTC, to the microsecond, so that names of runs and times of start sort alike."""
    return datetime.datetime.now(datetime.UTC).isoformat()


def _unused(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate
