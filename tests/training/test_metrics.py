"""What a training logs: TensorBoard's own reader finds what metrics.jsonl says."""

import sys
from pathlib import Path

import pytest

from compress.system.distribution import DISTRIBUTION
from compress.system.errors import EXIT_ENVIRONMENT, MachineError
from compress.training.metrics import read_metrics
from tests.helpers.training import run


def test_tensorboard_has_every_measured_value_of_every_epoch(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run(tmp_path, epochs=2, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1]
    expected = {
        (f"student/{name}", line["epoch"]): value
        for line in lines
        for name, value in line.items()
        if name not in ("phase", "epoch")
    }
    assert {"student/loss", "student/eval_top1", "student/lr"} <= {tag for tag, _ in expected}
    assert found == pytest.approx(expected, rel=1e-6)  # TensorBoard has float32


def test_without_tensorboard_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MachineError, match=rf"{DISTRIBUTION}\[tensorboard\]") as raised:
        run(tmp_path, epochs=1, tensorboard=True)
    assert raised.value.code == EXIT_ENVIRONMENT == 4
