"""Of the layouts of INT8 the fastest that passes its gate is kept, within the minutes."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.system.errors import GateError
from export.int8 import files, repair
from export.int8 import layouts as module
from export.int8.layouts import WHOLE
from export.int8.quantize import Layout
from export.records import ExportRecord
from tests.helpers.classifiers import Digits
from tests.helpers.exporting import SETTINGS, export_to

FAST = "with activations"


class Saturated(nn.Module):
    """It adds a large constant to all logits by a sigmoid: with that in 8 bits nothing of them is left."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = self.net(x)
        return logits + 4000 * torch.sigmoid(20 + logits[:, :1] * 1e-3)


@pytest.fixture
def exported(trained: nn.Module, data: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exports such a net to INT8 where the layout with activations is the fastest."""
    monkeypatch.setattr(module, "_medians", lambda names, *_: {name: 0.8 if name == FAST else 1.0 for name in names})

    def export(net: nn.Module | None = None, **settings: Any) -> ExportRecord:
        update = {"int8_minutes": 1.0, "max_logit_diff": 1e-2, **settings}
        model = Saturated(trained).eval() if net is None else net
        return export_to(tmp_path, model, data, SETTINGS.model_copy(update=update), precisions=("int8",), threads=1)

    return export


def test_where_the_fastest_fails_the_next_one_is_taken(exported: Any) -> None:
    entry = exported().files["student.int8.onnx"]
    assert (entry.layout, entry.outcome) == (WHOLE, "PASS")
    assert entry.drop_all_int8.drop < 0.005


def test_where_all_fail_the_error_is_of_the_one_that_loses_least(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = {}

    def refused(workshop: Any, judge: Any, name: str, *_: Any) -> None:
        lost = property(lambda self: 0.1 if self.best_file.stem == "best1" else 0.9)
        monkeypatch.setattr(type(judge), "least_drop", lost)
        tried[name] = judge
        raise GateError(f"{name} loses")

    monkeypatch.setattr(files, "_made", refused)
    with pytest.raises(GateError, match=f"{WHOLE} loses"):
        exported()
    assert list(tried) == [FAST, WHOLE]


@pytest.mark.parametrize(
    ("outcomes", "kept"),
    [
        ({FAST: ("PASS", 0.0), WHOLE: ("PASS", 0.0)}, FAST),
        ({FAST: ("UNDECIDED", 0.0), WHOLE: ("PASS", 0.001)}, WHOLE),
        ({FAST: ("UNDECIDED", 0.001), WHOLE: ("UNDECIDED", 0.0)}, FAST),  # both are within: the faster one
        ({FAST: ("UNDECIDED", 0.1), WHOLE: ("UNDECIDED", 0.0)}, WHOLE),
        ({FAST: ("UNDECIDED", 0.1), WHOLE: ("UNDECIDED", 0.2)}, FAST),
    ],
)
def test_the_best_outcome_is_kept_and_of_equals_the_faster(
    exported: Any, monkeypatch: pytest.MonkeyPatch, outcomes: dict[str, tuple[str, float]], kept: str
) -> None:
    real = files._made

    def judged(workshop: Any, judge: Any, name: str, *rest: Any) -> Any:
        made = real(workshop, judge, WHOLE, module.layouts(workshop.plain.model)[WHOLE], *rest[1:])
        outcome, lost = outcomes[name]
        drop = made.judged.drop.model_copy(update={"drop": lost})
        changed = {**vars(made.judged), "outcome": outcome, "drop": drop}
        return files._Made(**{**vars(made), "layout": name, "judged": type(made.judged)(**changed)})

    monkeypatch.setattr(files, "_made", judged)
    entry = exported().files["student.int8.onnx"]
    assert (entry.layout, entry.outcome) == (kept, outcomes[kept][0])


def test_after_the_minutes_the_whole_graph_alone_is_tried(
    exported: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The time of the first one does not count, so that one layout is tried whatever the minutes are."""
    tried = []

    def refused(workshop: Any, judge: Any, name: str, *_: Any) -> None:
        tried.append(name)
        time.sleep(0.1)
        raise GateError(f"{name} loses")

    ranked = dict.fromkeys((FAST, "second", "third", WHOLE), Layout(()))
    monkeypatch.setattr(repair, "ranked_layouts", lambda *_, **__: ranked)
    monkeypatch.setattr(files, "_made", refused)
    with pytest.raises(GateError):
        exported(int8_minutes=0.05 / 60)
    assert tried == [FAST, "second", WHOLE]
    assert "export.int8_minutes is over: the layout 'third' is not tried" in caplog.text
