"""All trackers of one run together.

In: the names of the trackers, the run folder, and what is to be logged. Out: the same in each tracker. trackers.json in
the run folder keeps the ids, so that a run which goes on does so in the same tracked run. After a training has begun no
tracker can end it: one that fails is left out with a warning, and gets what it missed when the run is finished.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from compress.system import files
from compress.system.errors import CompressError, MachineError, first_line, install_extra
from compress.training.trackers.mlflow import MLflow
from compress.training.trackers.tensorboard import TensorBoard
from compress.training.trackers.tracker import Status, Tracked, Tracker
from compress.training.trackers.wandb import WandB

logger = logging.getLogger(__name__)

TRACKERS: dict[str, Callable[[str, Path, Tracked], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WandB,
}
TRACKED = "trackers.json"
"""The file of a run folder with the ids of its tracked runs."""
_REMEMBERED = ("mlflow", "wandb")
_FILE = TypeAdapter(dict[str, Tracked])


class Trackers:
    """The tracked runs of one run. Without arguments there are none, as in processes that do not lead.

    Args:
        folder: of the run.
        opened: by name.
        tracked: what is remembered of each tracker, also of those that are not opened.
    """

    def __init__(
        self, folder: Path = Path(), opened: dict[str, Tracker] | None = None, tracked: dict[str, Tracked] | None = None
    ) -> None:
        self._folder = folder
        self._opened = opened or {}
        self._tracked = tracked or {}
        self._current: dict[str, str] = {}
        self._lost: set[str] = set()

    def begin(self, phase: str, training: str) -> None:
        """A training begins or goes on. Its lines get a series of their own where the phase had another training.

        Args:
            training: a hash of what determines it.
        """
        self._current[phase] = training
        for name in self._opened:
            trainings = self._tracked[name].trainings.setdefault(phase, [])
            if training not in trainings:
                trainings.append(training)

    def log(self, lines: Sequence[dict[str, Any]]) -> None:
        """Logs the lines of metrics.jsonl that a tracker does not have yet."""
        for name in self._opened:
            self._attempt(name, lambda name=name: self._log(name, lines))

    def finish(
        self,
        status: Status,
        *,
        lines: Sequence[dict[str, Any]] = (),
        results: dict[str, float] | None = None,
        artifacts: Sequence[Path] = (),
    ) -> None:
        """Ends the tracked runs. After a success, trackers that had failed are tried again.

        Args:
            lines: all of metrics.jsonl.
            results: of a finished run.
            artifacts: files and folders.
        """

        def end(name: str, tracker: Tracker) -> None:
            self._log(name, lines)
            if results:
                tracker.log_results(results)
            for path in artifacts:
                tracker.log_artifact(path)
            tracker.finish(status)

        for name, tracker in self._opened.items():
            self._attempt(name, lambda name=name, tracker=tracker: end(name, tracker), again=status == "finished")

    def _log(self, name: str, lines: Sequence[dict[str, Any]]) -> None:
        tracked, any_new = self._tracked[name], False
        try:
            for line in lines:
                series, epoch = self._series(tracked, line["phase"]), line["epoch"]
                if epoch < tracked.logged.get(series, 0):
                    continue
                values = {key: value for key, value in line.items() if isinstance(value, float)}
                self._opened[name].log_metrics(series, epoch, values)
                tracked.logged[series], any_new = epoch + 1, True
        finally:
            if any_new and name in _REMEMBERED:
                _remember(self._folder, self._tracked)

    def _series(self, tracked: Tracked, phase: str) -> str:
        trainings, training = tracked.trainings.get(phase, []), self._current.get(phase)
        number = trainings.index(training) if training in trainings else 0
        return f"{phase}-{number + 1}" if number else phase

    def _attempt(self, name: str, action: Callable[[], None], *, again: bool = False) -> None:
        if name in self._lost and not again:
            return
        try:
            with _stdout_free():
                action()
        except Exception as error:  # noqa: BLE001 - whatever it is, the training is worth more
            if name not in self._lost:
                logger.warning(f"{name}: {_reason(error)}. The run goes on without it; metrics.jsonl has all")
            self._lost.add(name)


def open_trackers(names: Iterable[str], folder: Path, parameters: dict[str, Any]) -> Trackers:
    """Opens the trackers of a run: a new tracked run in each, or the one in which the run was tracked before.

    Args:
        names: of TRACKERS.
        folder: of the run. Its name is that of the tracked runs.
        parameters: nested; they are logged by dotted keys.

    Raises:
        MachineError: a tracker is not installed, needs a login, or does not answer.
    """
    tracked = _remembered(folder)
    opened: dict[str, Tracker] = {}
    try:
        for name in dict.fromkeys(names):
            own = tracked[name] = tracked.get(name, Tracked()) if name in _REMEMBERED else Tracked()
            with _stdout_free(), _explained(name):
                opened[name] = TRACKERS[name](folder.resolve().name, folder, own)
                opened[name].log_parameters(dict(_flat(parameters)))
    except BaseException:
        Trackers(folder, opened, tracked).finish("failed")
        raise
    finally:
        if not tracked.keys().isdisjoint(_REMEMBERED):
            _remember(folder, tracked)
    return Trackers(folder, opened, tracked)


def add_artifacts(folder: Path, paths: Sequence[Path]) -> None:
    """Adds files to the tracked runs of a finished run, if it was tracked. What fails is a warning.

    Args:
        folder: of the run.
        paths: of the files.
    """
    for name, own in _remembered(folder).items():
        try:
            with _stdout_free():
                tracker = TRACKERS[name](folder.resolve().name, folder, own)
                for path in paths:
                    tracker.log_artifact(path)
                tracker.finish("finished")
        except Exception as error:  # noqa: BLE001 - the files are written, which is what was asked for
            logger.warning(f"{name}: {_reason(error)}. It did not get {', '.join(path.name for path in paths)}")


def _remembered(folder: Path) -> dict[str, Tracked]:
    path = folder / TRACKED
    try:
        return _FILE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError):
        logger.warning(f"{path} cannot be read, so that the run is tracked anew")
        return {}


def _remember(folder: Path, tracked: dict[str, Tracked]) -> None:
    kept = {name: own.model_dump() for name, own in tracked.items() if name in _REMEMBERED}
    files.write_json(folder / TRACKED, kept)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Errors of a tracker that cannot be opened as MachineError."""
    try:
        yield
    except CompressError:
        raise
    except ImportError:
        raise MachineError(f"train.tracker: [{name}] needs packages that are missing", install_extra(name)) from None
    except Exception as error:
        raise MachineError(
            f"train.tracker: [{name}] cannot be used ({_reason(error)})", "Mend that, or leave it out."
        ) from error


def _reason(error: Exception) -> str:
    """The first line of the error, without a password in an address."""
    return re.sub(r"//[^/@\s]*@", "//", first_line(error))


def _flat(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Nested content by dotted keys. Entries of lists are numbered."""
    entries = dict(enumerate(content)) if isinstance(content, list) else content
    if not isinstance(entries, dict) or (key and not entries):
        yield key, content if isinstance(content, str | int | float | None) else str(content)
        return
    for name, value in entries.items():
        yield from _flat(value, f"{key}.{name}" if key else str(name))


@contextlib.contextmanager
def _stdout_free() -> Iterator[None]:
    """stdout is for results, so what a library prints goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
