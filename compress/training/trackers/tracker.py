"""What a tracker does, and what a run remembers of it.

In: the calls of `compress.training.trackers.tracked`. Out: a tracked run in the tracker. Each tracker is a module
beside this one.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

Status = Literal["finished", "failed", "interrupted"]


class Tracked(BaseModel):
    """A tracked run, as the run folder remembers it.

    Attributes:
        id: of the tracked run, or "" before there is one.
        place: where the tracker keeps it, if that depends on the working folder.
        logged: the number of epochs that are there, by series.
        trainings: hashes of the trainings of a phase, in order, by phase. The first has the series PHASE. A later one,
            as of a fine-tuning that is done again for more epochs, has PHASE-2 and so on.
    """

    id: str = ""
    place: str = ""
    logged: dict[str, int] = {}
    trainings: dict[str, list[str]] = {}

    def begin(self, id_: str, place: str = "") -> None:
        """A new tracked run, in which nothing is logged yet."""
        self.id, self.place, self.logged, self.trainings = id_, place, {}, {}


class Tracker(Protocol):
    """One tracked run. Each method may raise whatever the tracker's library raises.

    It is made from the run's name, its folder, and a Tracked that it updates. It goes on in the run of that id, or
    begins one where there is none.
    """

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """The resolved recipe by dotted keys. Values may differ from those of an earlier call."""
        ...

    def log_metrics(self, series: str, epoch: int, values: dict[str, float]) -> None:
        """The values of an epoch, each as SERIES/NAME. Epochs count from 0."""
        ...

    def log_results(self, results: dict[str, float]) -> None:
        """The results of the finished run."""
        ...

    def log_artifact(self, path: Path) -> None:
        """A file, or a folder with all that it holds."""
        ...

    def finish(self, status: Status) -> None:
        """Ends the tracked run. A later Tracker may go on in it."""
        ...
