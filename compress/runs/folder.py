"""The run folder: its name, its lock, its manifest, and how runs are found again."""

import datetime
import json
import os
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compress.distributed.world import current
from compress.recipe import Recipe, load_recipe, recipe_yaml
from compress.system import console, files
from compress.system.errors import InputError, MachineError

RUNS = Path("runs")
TEACHERS = "teachers"
ASSISTANTS = "assistants"
MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Run:
    """A run folder that exists. Its manifest is read anew at each use: another process may be writing it."""

    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return read_manifest(self.path)

    @property
    def recipe(self) -> Recipe:
        return load_recipe(self.path / RECIPE)

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
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def quantize_checkpoints(self) -> Path:
        return self.path / "checkpoints-quantize"

    def finished_files(self) -> dict[Path, bytes]:
        """The content of manifest and recipe where the run is finished, else nothing."""
        manifest = self.path / MANIFEST
        if not manifest.exists() or self.manifest.get("status") != "finished":
            return {}
        return {path: path.read_bytes() for path in (self.path / RECIPE, manifest)}

    def write_manifest(self, entries: Mapping[str, Any]) -> None:
        files.write_json(self.path / MANIFEST, {key: value for key, value in entries.items() if value is not None})

    def update(self, **changes: Any) -> None:
        """Sets these entries of the manifest. Raises InputError where it is gone."""
        self.write_manifest({**self.manifest, **changes})


def new_run(recipe: Recipe, name: str, out: Path | None) -> Run:
    """Makes the folder: `out`, or a name of its own below runs/. Raises MachineError where `out` holds something."""
    path = out or _unused(RUNS / f"{name}-{recipe.supervision.method}-s{recipe.train.seed}-{timestamp()}")
    if path.is_dir() and (path / ".lock").exists() and is_held(path):
        raise in_use(path)
    leftovers = {RECIPE, ".lock", ".holder"}  # of a run that ended before its first manifest
    if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()} - leftovers):
        hint = "Choose another --out."
        if (path / MANIFEST).exists():
            finished = read_manifest(path).get("status") == "finished"
            hint = "It holds a finished run: choose another --out." if finished else f"{hint[:-1]}, or --resume it."
        raise MachineError(f"{path} is not empty", hint)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(path, error) from error
    return Run(path)


def write_recipe(run: Run, recipe: Recipe) -> None:
    files.write_bytes(run.path / RECIPE, recipe_yaml(recipe).encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """Raises InputError where the folder is no run, or its manifest is damaged or of a newer version."""
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is not a run folder: it has no {MANIFEST}", "See `compress runs list`.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{file} is not a manifest of version {SCHEMA_VERSION}", "Use the compress that wrote it.")
    return manifest


def all_runs(root: Path = RUNS) -> list[Run]:
    """The runs below a folder, oldest first; folders without a manifest that can be read are passed over."""
    runs: list[tuple[str, Run]] = []
    for manifest in root.glob(f"*/{MANIFEST}"):
        try:
            runs.append((str(read_manifest(manifest.parent)["started"]), Run(manifest.parent)))
        except (InputError, KeyError):
            continue
    return [run for _, run in sorted(runs, key=lambda pair: (pair[0], str(pair[1].path)))]


def finished_run(path: Path | None) -> Run:
    """The run at `path`, which must be finished, or the newest finished one below runs/. Raises InputError."""
    if path is not None:
        run = Run(path)
        if (status := run.manifest["status"]) != "finished":
            raise InputError(f"run {path} is not finished, but {status}", "Go on with `compress distill --resume`.")
        return run
    finished = [run for run in all_runs() if run.manifest["status"] == "finished"]
    if not finished:
        raise InputError(f"no finished run in {RUNS}/", "Start one with `compress distill RECIPE`.")
    return finished[-1]


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keeps other processes out of the folder. Raises MachineError naming the holder; a dead one's lock is void."""
    holder = folder / ".holder"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise in_use(folder) from None
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    try:
        files.write_bytes(holder, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        files.remove_leftovers(folder)
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def in_turn(lock_file: Path, what: str) -> Iterator[None]:
    """Waits while another process makes `what`; the lock's folder is made. Raises MachineError where it cannot be."""
    lock = FileLock(lock_file)
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            console.say(f"{what}: another run is training it; waiting for it")
            lock.acquire()
    except OSError as error:
        raise files.cannot_write(lock_file, error) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder below that one which is gone after the block, the same for all processes; the leader makes it."""
    with ExitStack() as stack:

        def make() -> str:
            try:
                own = tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=folder, ignore_cleanup_errors=True)
            except OSError as error:
                raise files.cannot_write(folder, error) from error
            return stack.enter_context(own)

        yield Path(current().from_leader(make))


def check_shared(folder: Path) -> None:
    """Raises MachineError in all processes where one does not see the leader's folder, which is there."""
    world = current()
    if world.size == 1:
        return
    with scratch(folder) as probe:  # its name is new: no file system remembers that it was not there
        blind = world.from_each("" if probe.is_dir() else socket.gethostname())
    path = world.from_leader(folder.absolute)
    if machines := sorted(set(blind) - {""}):
        raise MachineError(
            f"machine {machines[0]} does not see {path} of the machine that leads",
            "All machines need the same working folder, on a file system that they share.",
        )


def in_use(folder: Path) -> MachineError:
    try:
        who = (folder / ".holder").read_text(encoding="utf-8").strip()
    except OSError:
        who = "another process"
    return MachineError(f"{folder} is in use by {who}", "Wait for it, or choose another --out.")


def is_held(folder: Path) -> bool:
    """Whether a process works in the folder now."""
    try:
        with FileLock(folder / ".lock").acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # a folder that cannot be written


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
