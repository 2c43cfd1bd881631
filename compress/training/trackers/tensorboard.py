"""TensorBoard: events in RUN/tensorboard.

In: the values of epochs. Out: one file of events. TensorBoard has no place for parameters, results and artefacts.
"""

from pathlib import Path
from typing import Any

from compress.training.trackers.tracker import Status, Tracked


class TensorBoard:
    """Writes all events anew each time a run goes on, from metrics.jsonl. So an epoch that is repeated is there once.

    Raises:
        ImportError: TensorBoard is not installed.
    """

    def __init__(self, name: str, folder: Path, tracked: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        place = folder / "tensorboard"
        for events in place.glob("events.out.tfevents.*"):
            events.unlink()
        # purge_step: a TensorBoard that shows the removed events drops them.
        self._writer = SummaryWriter(str(place), purge_step=0)

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Nothing."""

    def log_metrics(self, series: str, epoch: int, values: dict[str, float]) -> None:
        """Scalars, with the epoch as the step."""
        for name, value in values.items():
            self._writer.add_scalar(f"{series}/{name}", value, epoch)
        self._writer.flush()

    def log_results(self, results: dict[str, float]) -> None:
        """Nothing."""

    def log_artifact(self, path: Path) -> None:
        """Nothing."""

    def finish(self, status: Status) -> None:
        """Closes the file."""
        self._writer.close()
