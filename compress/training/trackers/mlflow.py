"""MLflow: a run in the store of $MLFLOW_TRACKING_URI, else in MLflow's own default below the working folder.

In: parameters, values of epochs, results, files. Out: the same in MLflow. The client names the run in each call, so
that several runs of one process do not mix.
"""

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

from compress.training.trackers.tracker import Status, Tracked

logger = logging.getLogger(__name__)

_EXPERIMENT = "compress"
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
_PARAMETERS_A_CALL = 100
_LONGEST_VALUE = 500  # of a parameter, in older servers


class MLflow:
    """A run of the experiment $MLFLOW_EXPERIMENT_NAME, else "compress".

    Raises:
        ImportError: MLflow is not installed.
        Exception: whatever MLflow raises where the store cannot be used.
    """

    def __init__(self, name: str, folder: Path, tracked: Tracked) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's own 7 hold up the training for minutes
        from mlflow import entities
        from mlflow.tracking import MlflowClient

        for chatty in ("mlflow", "alembic"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        chosen = bool(os.environ.get("MLFLOW_TRACKING_URI"))
        self._entities = entities
        self._client = MlflowClient(None if chosen else tracked.place or None)
        if not tracked.id or not self._goes_on(tracked.id):
            tracked.begin(self._begin(name))
        # An address of the user's is not kept: it may hold a password.
        tracked.place = "" if chosen else self._client.tracking_uri
        self._id = tracked.id
        logger.info(f"mlflow: run {name} in {re.sub('//[^/@]*@', '//', self._client.tracking_uri)}")

    def log_parameters(self, parameters: dict[str, Any]) -> None:
        """Parameters. MLflow lets no parameter change: where a run was extended, its new values are tags."""
        known = self._client.get_run(self._id).data.params
        short = {key: str(value)[:_LONGEST_VALUE] for key, value in parameters.items()}
        new = [self._entities.Param(key, value) for key, value in short.items() if key not in known]
        for start in range(0, len(new), _PARAMETERS_A_CALL):
            self._client.log_batch(self._id, params=new[start : start + _PARAMETERS_A_CALL])
        for key, value in short.items():
            if known.get(key, value) != value:
                self._client.set_tag(self._id, key, value)

    def log_metrics(self, series: str, epoch: int, values: dict[str, float]) -> None:
        """Metrics, with the epoch as the step."""
        self._log({f"{series}/{name}": value for name, value in values.items()}, epoch)

    def log_results(self, results: dict[str, float]) -> None:
        """Metrics without a step."""
        self._log(results, 0)

    def log_artifact(self, path: Path) -> None:
        """A folder by its name, a file at the top."""
        if path.is_dir():
            self._client.log_artifacts(self._id, str(path), path.name)
        else:
            self._client.log_artifact(self._id, str(path))

    def finish(self, status: Status) -> None:
        """Sets the status FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self._id, _STATUS[status])

    def _log(self, values: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def _goes_on(self, id_: str) -> bool:
        """Sets the run's status to RUNNING. False where it is gone."""
        from mlflow.exceptions import MlflowException

        try:
            gone = self._client.get_run(id_).info.lifecycle_stage == "deleted"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            gone = True
        if not gone:
            self._client.update_run(id_, "RUNNING")
        return not gone

    def _begin(self, name: str) -> str:
        from mlflow.tracking.context.registry import resolve_tags

        tags: dict[str, Any] = {**resolve_tags(), "mlflow.source.name": "compress"}
        return self._client.create_run(self._experiment(), tags=tags, run_name=name).info.run_id

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        try:
            return self._client.create_experiment(name)
        except MlflowException:
            if (found := self._client.get_experiment_by_name(name)) is None:  # else another process was faster
                raise
            return found.experiment_id
