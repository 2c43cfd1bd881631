"""What the real trackers hold: MLflow's store by its client, and W&B's offline folders by its own records."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compress.training.metrics import read_metrics

Points = dict[tuple[str, int], list[float]]
"""The values by name and epoch. Each should be there once."""


@dataclass
class OfflineRun:
    """All offline folders of one W&B run."""

    names: set[str] = field(default_factory=set)
    projects: set[str] = field(default_factory=set)
    points: Points = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, set[str]] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)


def expected_points(run: Path) -> dict[tuple[str, int], Any]:
    """What metrics.jsonl says, as points that are there once."""
    return {
        (f"{line['phase']}/{name}", line["epoch"]): [value]
        for line in read_metrics(run / "metrics.jsonl")
        for name, value in line.items()
        if isinstance(value, float)
    }


def mlflow_points(client: Any, id_: str) -> Points:
    """The history of every metric with a phase."""
    points: Points = {}
    for name in client.get_run(id_).data.metrics:
        for metric in client.get_metric_history(id_, name) if "/" in name else []:
            points.setdefault((name, metric.step), []).append(metric.value)
    return points


def tensorboard_points(run: Path) -> Points:
    """All events, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events, points = EventAccumulator(str(run / "tensorboard")).Reload(), {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            points.setdefault((tag, event.step), []).append(event.value)
    return points


def wandb_runs(folder: Path) -> dict[str, OfflineRun]:
    """The runs of the folder `wandb`, by id."""
    runs: dict[str, OfflineRun] = {}
    for path in sorted(folder.glob("offline-run-*/run-*.wandb")):
        run = runs.setdefault(path.stem.removeprefix("run-"), OfflineRun())
        for record in _records(path):
            _take(run, record)
    return runs


def _take(run: OfflineRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.names.add(record.run.display_name)
        run.projects.add(record.run.project)
        run.config |= _values(record.run.config.update)
    elif kind == "config":
        run.config |= _values(record.config.update)
    elif kind == "summary":
        run.summary |= _values(record.summary.update)
    elif kind == "history":
        values = _values(record.history.item)
        run.rows.append(record.history.step.num)
        for name, value in values.items():
            if "/" in name:
                run.points.setdefault((name, values["epoch"]), []).append(value)
    elif kind == "artifact":
        run.artifacts[record.artifact.name] = {entry.path for entry in record.artifact.manifest.contents}
    elif kind == "exit":
        run.exits.append(record.exit.exit_code)


def _values(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(path: Path) -> Iterator[Any]:
    """LevelDB's log format: blocks of 32 KiB, in them pieces of records with checksum, length and kind."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    content, place, parts = path.read_bytes(), 7, b""  # after W&B's own header
    while place + 7 <= len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or its last piece
            yield Record.FromString(parts)
            parts = b""
