"""The state of a study in a folder that can be carried to another machine: plain files of at most 15 MB, and an index.

In: the runs and teachers below runs/. Out: state.json, which names every file with its SHA-256, and parts/. Parts are
named after their content and the index is replaced last, so that a state is whole at any time.
"""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from plan import TUNED
from pydantic import Field, ValidationError

from compress.recipe import Section
from compress.runs.folder import Run, TeacherFolder, now, runs_root, teachers_root
from compress.system import files
from compress.system.errors import InputError, MachineError, first_line

PART_BYTES = 15_000_000
INDEX = "state.json"
MEASURES = "measures.json"
DIVERGED = "diverged.json"
_PARTS = "parts"
_FINISHED = "finished"  # sorts behind every name of a checkpoint
_SMALL_BYTES = PART_BYTES  # of a student's weights that are carried along


class Entry(Section):
    """A file. parts: names below parts/, whose contents in this order are the file."""

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    parts: list[str]


class Unit(Section):
    """A folder below runs/. progress: `finished`, or the name of the newest checkpoint."""

    progress: str
    files: dict[str, Entry]


class Index(Section):
    """teachers: the unit of each setting's teacher."""

    schema_version: int = 1
    study: str
    study_sha256: str
    saved: str
    units: dict[str, Unit]
    teachers: dict[str, str] = Field(default_factory=dict)


class State:
    """The state folder of one study.

    Raises InputError where a state that is there is damaged or of another study, MachineError where it cannot be
    written. It is read when it is made, and every part is checked.
    """

    def __init__(self, folder: Path, study: str, study_sha256: str) -> None:
        self.folder = folder
        self.index = Index(study=study, study_sha256=study_sha256, saved=now(), units={})
        if not (folder / INDEX).exists():
            return
        try:
            found = Index.model_validate_json((folder / INDEX).read_bytes())
        except (OSError, ValidationError) as error:
            raise _damaged(folder, f"{INDEX} cannot be read: {first_line(error)}") from None
        if (found.study, found.study_sha256) != (study, study_sha256):
            raise InputError(
                f"{folder} is the state of another study, {found.study}, or of another version of it",
                "Choose another --state.",
            )
        for name, unit in found.units.items():
            for path, entry in unit.files.items():
                _check_path(folder, f"{name}/{path}")
                self._read(entry, f"{name}/{path}")
        if strange := set(found.teachers.values()) - set(found.units):
            raise _damaged(folder, f"it names a teacher that it does not have, {min(strange)}")
        self.index = found

    def restore(self) -> None:
        """Puts into runs/ every unit that is further on here than there, each whole or not at all."""
        making = runs_root() / f".{self.index.study}-restored.tmp"
        for name, unit in self.index.units.items():
            target = runs_root() / name
            if _progress(target) >= unit.progress:
                continue
            try:
                shutil.rmtree(making, ignore_errors=True)
                for path, entry in unit.files.items():
                    place = making / path
                    place.parent.mkdir(parents=True, exist_ok=True)
                    files.write_bytes(place, self._read(entry, f"{name}/{path}"))
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                making.rename(target)
            except OSError as error:
                raise files.cannot_write(target, error) from error

    def save(self, teachers: Mapping[str, Path], runs: Iterable[Path]) -> None:
        """Adds what these folders below runs/ hold by now; what has not begun is left out.

        Args:
            teachers: by setting.
        """
        units = dict(self.index.units)
        for folder in (*teachers.values(), *runs):
            name = _unit(folder)
            if progress := _progress(folder):
                kept = _kept(folder, progress)
                before = units.get(name)
                if before is None or before.progress != _FINISHED or set(before.files) != set(kept):
                    units[name] = Unit(progress=progress, files={path: self._write(folder / path) for path in kept})
        known = {setting: name for setting, folder in teachers.items() if (name := _unit(folder)) in units}
        changed = {"units": units, "teachers": self.index.teachers | known, "saved": now()}
        self.index = self.index.model_copy(update=changed)
        files.write_json(self.folder / INDEX, self.index.model_dump(mode="json"))
        named = {part for unit in units.values() for entry in unit.files.values() for part in entry.parts}
        for path in (self.folder / _PARTS).glob("*"):
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _write(self, path: Path) -> Entry:
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        count = max(1, -(-len(content) // PART_BYTES))
        names = [f"{sha256[:32]}-{number + 1:03d}of{count:03d}" for number in range(count)]
        for number, name in enumerate(names):
            part = self.folder / _PARTS / name
            if not part.exists():
                files.write_bytes(part, content[number * PART_BYTES : (number + 1) * PART_BYTES])
        return Entry(sha256=sha256, parts=names)

    def _read(self, entry: Entry, name: str) -> bytes:
        try:
            for part in entry.parts:
                _check_path(self.folder, part)
            content = b"".join((self.folder / _PARTS / part).read_bytes() for part in entry.parts)
        except OSError as error:
            raise _damaged(self.folder, f"a part of {name} cannot be read: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise _damaged(self.folder, f"the hash of {name} differs")
        return content


def refuse_existing(folder: Path) -> None:
    if (folder / INDEX).exists():
        raise MachineError(f"{folder} holds the state of a study", "Go on with --resume, or choose another --state.")


def is_finished(folder: Path) -> bool:
    run = Run(folder)
    return run.manifest_file.exists() and run.manifest.finished


def is_done(folder: Path) -> bool:
    """Finished, or diverged, which is a result as well."""
    return is_finished(folder) or (folder / DIVERGED).exists()


def _unit(folder: Path) -> str:
    return folder.relative_to(runs_root()).as_posix()


def _progress(folder: Path) -> str:
    """How far a run or teacher is; "" where there is nothing to go on from."""
    finished = TeacherFolder(folder).trained if folder.parent == teachers_root() else is_done(folder)
    checkpoints = sorted(path.stem for path in Run(folder).checkpoints.glob("epoch-*-step-*.json"))
    return _FINISHED if finished else (checkpoints or [""])[-1]


def _kept(folder: Path, progress: str) -> list[str]:
    """What goes on, or stands for, a folder with this progress: paths below it.

    Large weights of a student are left out once it is measured, or where it never will be.
    """
    run = Run(folder)
    wanted = [run.manifest_file, run.recipe_file, run.metrics, folder / MEASURES, folder / DIVERGED]
    if progress != _FINISHED:
        wanted += [run.checkpoints / f"{progress}{suffix}" for suffix in (".json", ".safetensors")]
    elif folder.parent == teachers_root():
        wanted += sorted(TeacherFolder(folder).model.iterdir())
    else:
        weights = sorted(run.student.glob("*"))
        small = sum(path.stat().st_size for path in weights) <= _SMALL_BYTES
        to_be_measured = not folder.name.startswith(TUNED) and not (folder / MEASURES).exists()
        if small or to_be_measured:
            wanted += weights
    return [path.relative_to(folder).as_posix() for path in wanted if path.is_file()]


def _check_path(folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise _damaged(folder, f"it names {name}, which is outside of it")


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"the state in {folder} is damaged: {what}", "Take another copy of it, or start without it.")
