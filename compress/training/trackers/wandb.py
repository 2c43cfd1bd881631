"""Weights & Biases: a run in the project $WANDB_PROJECT, else "compress".

In: parameters, values of epochs, results, files. Out: the same in W&B, or with WANDB_MODE=offline in the folder wandb
below the working folder, for `wandb sync`.
"""

import logging
import os
import secrets
from pathlib import Path
from typing import Any

from compress.system.errors import MachineError
from compress.training.trackers.tracker import Status, Tracked

logger = logging.getLogger(__name__)

_PROJECT = "compress"
_WITHOUT_LOGIN = ("offline", "dryrun", "disabled")
_UPLOAD_SECONDS = 600.0


class WandB:
    """A run beside others of this process. W&B's x axis is the epoch.

    Raises:
        ImportError: W&B is not installed.
        MachineError: nobody is logged in, and the mode is not offline.
        Exception: whatever W&B raises where its server does not answer.
    """

    def __init__(self, name: str, folder: Path, tracked: Tracked) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._wandb, self._name, self._tracked = wandb, name, tracked
        mode = wandb.setup().settings.mode
        online = mode not in _WITHOUT_LOGIN
        if online and not wandb.login(prompt=False):
            raise MachineError(
                "train.tracker: [wandb] needs a login at Weights & Biases",
                "Give `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline to upload later.",
            )
        project = os.environ.get("WANDB_PROJECT") or _PROJECT
        place = "" if mode == "disabled" else project  # what goes nowhere is logged again once W&B is on
        if not place or tracked.place != place:
            tracked.begin(secrets.token_hex(4), place)
        options: dict[str, Any] = {"console": "off", "silent": True}
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            options["finish_timeout"] = _UPLOAD_SECONDS  # what is not sent by then is left for `wandb sync`
        self._run = wandb.init(
            project=project,
            name=name,
            id=tracked.id,
            resume="allow" if online else None,  # offline, `wandb sync` joins what has the same id
            reinit="create_new",
            settings=wandb.Settings(**options),
        )
        self._run.define_metric("epoch", hidden=True)
        self._run.define_metric("*", step_metric="epoch")
        logger.info(f"wandb: run {name} in {self._run.url if online else Path(self._run.dir).parent}")

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """The run's config."""
        self._run.config.update(parameters, allow_val_change=True)

    def log_metrics(self, series: str, epoch: int, values: dict[str, float]) -> None:
        """A row of the history. Rows are numbered over all series, also where a run goes on offline."""
        row = {f"{series}/{name}": value for name, value in values.items()}
        self._run.log({"epoch": epoch, **row}, step=sum(self._tracked.logged.values()))

    def log_results(self, results: dict[str, float]) -> None:
        """The run's summary."""
        self._run.summary.update(results)

    def log_artifact(self, path: Path) -> None:
        """An artefact RUN-NAME: of the type model for a folder, else report."""
        folder = path.is_dir()
        name = f"{self._name}-{path.name.replace('.', '-')}"
        artifact = self._wandb.Artifact(name, type="model" if folder else "report")
        for file in sorted(path.rglob("*")) if folder else [path]:
            if file.is_file():
                artifact.add_file(str(file), name=str(file.relative_to(path)) if folder else file.name)
        self._run.log_artifact(artifact)

    def finish(self, status: Status) -> None:
        """Waits until all is uploaded, at most ten minutes or $WANDB_FINISH_TIMEOUT."""
        self._run.finish(exit_code=0 if status == "finished" else 1)
