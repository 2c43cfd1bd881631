"""Runs the groups of a sweep as tasks of a Ray cluster.

In: groups of cells, and the function that runs one group in a worker. Out: a Run or an error for each cell. Ray places
the tasks, and starts a task again if its worker died. Workers must see the runs under the same path as the command.
"""

import contextlib
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from compress.runs.folder import finished_run
from compress.sweeps.cells import Cell
from compress.sweeps.lockstep import Outcome
from compress.system import console
from compress.system.errors import (
    CompressError,
    InputError,
    Interrupted,
    MachineError,
    fault,
    first_line,
    install_extra,
)
from compress.system.interrupts import deferred

RunGroup = Callable[..., dict[str, Outcome]]
"""(group, recipe_name=, device=) -> the outcome of each run, by name."""

_PASSED_ON = ("COMPRESS_", "HF_", "MLFLOW_", "WANDB_")  # HF_ for published weights, the last two for train.tracker
_RETRIES = 3
_LOOK_SECONDS = 0.5
_SAVING_SECONDS = 60
_ANSWER_SECONDS = 10


def run_on_ray(
    groups: Sequence[Sequence[Cell]], run_group: RunGroup, *, recipe_name: str, device: str
) -> Iterator[dict[str, Outcome]]:
    """Runs all groups on the cluster of RAY_ADDRESS, or on a cluster that it starts on this machine.

    Each group takes one CPU, and one GPU if the cluster has any. A group whose worker dies is tried three more times,
    from its checkpoints.

    Args:
        run_group: runs one group in a worker.
        recipe_name: recorded in the manifests.
        device: auto, cpu or cuda.

    Yields:
        The outcome of each run of a group, by name, in the order in which groups end.

    Raises:
        MachineError: Ray is not installed, or the cluster does not answer.
        Interrupted: a signal arrived. The workers have saved.
    """
    try:
        import ray
    except ImportError:
        raise MachineError("--engine ray needs Ray", install_extra("ray")) from None
    # stdout is for results, so what workers print goes to stderr.
    with contextlib.redirect_stdout(sys.stderr), _cluster(ray), deferred() as interrupted:
        gpus = 1 if device != "cpu" and ray.cluster_resources().get("GPU") else 0
        work = ray.remote(_work)
        environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        running = {
            work.options(
                name=group[0].name, num_gpus=gpus, max_retries=_RETRIES, retry_exceptions=[WorkerStopped]
            ).remote(Path.cwd(), environment, run_group, group, recipe_name, device): group
            for group in groups
        }
        while running and not interrupted:
            ended, _ = ray.wait(list(running), timeout=_LOOK_SECONDS)
            for task in ended:
                yield _outcomes(ray, task, running.pop(task))
        if interrupted:
            for task in running:
                ray.cancel(task)
            ray.wait(list(running), num_returns=len(running), timeout=_SAVING_SECONDS)
            interrupted.raise_if_set()


class WorkerStopped(Exception):
    """A worker was told to stop and has saved its runs. Another worker continues them."""


def _work(
    home: Path,
    environment: dict[str, str],
    run_group: RunGroup,
    group: Sequence[Cell],
    recipe_name: str,
    device: str,
) -> dict[str, Outcome]:
    os.environ.update(environment)
    console.show_log()
    try:
        os.chdir(home)
    except OSError as error:
        missing = MachineError(
            f"{home} cannot be opened on {socket.gethostname()}: {error.strerror}",
            "Start the sweep in a folder that every worker sees under that path.",
        )
        return {cell.name: missing for cell in group}
    try:
        return run_group(group, recipe_name=recipe_name, device=device)
    except Interrupted as stop:
        raise WorkerStopped(f"signal {stop.signal_number}") from None


def _outcomes(ray: Any, task: Any, group: Sequence[Cell]) -> dict[str, Outcome]:
    """What the task returned, or for each of its runs the reason why it did not."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, WorkerStopped):
            return {cell.name: _left(cell, error) for cell in group}
        reason: CompressError = fault(error.cause if isinstance(error.cause, Exception) else error)
        reason.add_note(str(error))  # with the worker's traceback
        if "failed to import on the worker" in str(error):
            reason = MachineError("a Ray worker cannot import compress", "Install the same version on every node.")
        return {cell.name: reason for cell in group}
    except ray.exceptions.RayError as error:
        return {cell.name: _left(cell, error) for cell in group}


def _left(cell: Cell, error: Exception) -> Outcome:
    """After a worker died: the run if it is finished, else the reason."""
    try:
        return finished_run(cell.folder)
    except InputError:
        return MachineError(f"its Ray worker died {_RETRIES + 1} times, at last with: {first_line(error)}")


@contextlib.contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Connects to a cluster. It restores the handler for SIGTERM, which Ray replaces by one that kills silently."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if place := re.fullmatch(r"(?:ray://)?([^/]+):(\d+)", address):
            # Ray itself would try for minutes.
            socket.create_connection((place[1].strip("[]"), int(place[2])), timeout=_ANSWER_SECONDS).close()
        ray.init(address=address, logging_level="warning")
    except (OSError, ValueError, RuntimeError) as error:  # no answer, a bad address, or another version there
        raise MachineError(
            f"no Ray cluster can be had at RAY_ADDRESS={address}: {error}", "Start it, or unset that."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()
