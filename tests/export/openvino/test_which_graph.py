"""The INT8 graph for OpenVINO is one that it runs, and the fastest that passes."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from compress.runs.folder import Run
from compress.system.errors import GateError
from export import export_run
from export.gates import Stage
from export.int8 import has_vnni
from export.onnx import INPUT_NAME
from export.openvino import Session, files
from export.openvino.fastest import median_times
from export.pick.graphs import make_graphs

SIZE = 32
GRAPHS = ("student.int8.trt.onnx", "student.int8.onnx")


def test_what_openvino_does_not_run_is_named_and_not_timed(
    trained_onnx: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(trained_onnx.read_bytes()[:1000])
    assert list(median_times([damaged, trained_onnx], 1)) == [trained_onnx]
    assert "OpenVINO does not run damaged.onnx: " in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outcomes", "kept"),
    [
        (("PASS", "PASS"), 0),
        (("UNDECIDED", "PASS"), 1),
        (("FAIL", "PASS"), 1),
        (("UNDECIDED", "UNDECIDED"), 0),
        (("FAIL", "FAIL"), None),
        ((None, "PASS"), 1),
    ],
)
def test_of_two_graphs_it_is_the_fastest_that_passes(
    outcomes: tuple[str | None, str],
    kept: int | None,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """None: OpenVINO does not run it. The first is the faster one, and both are slower than FP32."""
    run = Run(tmp_path / "run")
    shutil.copytree(finished, run.path)
    check, now = Stage.check_accuracy, dict(zip(GRAPHS, outcomes, strict=True))
    seconds = dict(zip((*GRAPHS, "student.onnx"), (2.0, 3.0, 1.0), strict=True))
    written: list[str] = []

    def write(source: Path, target: Path, *, half: bool) -> None:
        written.append(source.name)
        real(source, target, half=half)

    def judged(stage: Stage, runtime: Any, drop: float, agreement: float, what: str, **given: Any) -> dict[str, Any]:
        measured = check(stage, runtime, 0.99, 0.01, what, **given)
        if what != "OpenVINO's INT8":
            return measured
        if now[written[-1]] == "FAIL":
            raise GateError("it loses too much")
        return {**measured, "outcome": now[written[-1]]}

    real = files._write
    monkeypatch.setattr(files, "_write", write)
    monkeypatch.setattr(files, "median_times", lambda paths, threads: timed(paths))
    monkeypatch.setattr(Stage, "check_accuracy", judged)

    def timed(paths: list[Path]) -> dict[Path, float]:
        running = [path for path in paths if now.get(path.name, "") is not None]
        return {path: seconds[path.name] for path in sorted(running, key=lambda path: seconds[path.name])}

    loose = ["export.max_int8_top1_drop=0.9", "export.min_int8_agreement=0.01"]
    wanted = {"formats": ("onnx", "openvino"), "precisions": ("fp32", "int8"), "overrides": loose, "threads": 1}
    if kept is None:
        with pytest.raises(GateError, match="it loses too much"):
            export_run(run, **wanted)
        assert not (run.export / "openvino" / "student.int8.xml").exists()
        return
    with caplog.at_level(logging.INFO):
        record = export_run(run, **wanted)
    entry = record.files["openvino/student.int8.xml"]
    assert (entry.made_of, entry.outcome) == (GRAPHS[kept], outcomes[kept])
    assert written[-1] == GRAPHS[kept]
    assert entry.speedup_over_fp32 == round(1 / seconds[GRAPHS[kept]], 2)
    assert "openvino/student.int8.xml runs at 0." in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort", "trt"])
def test_edgenext_in_int8_answers_as_in_onnx_runtime(target: str, tmp_path: Path) -> None:
    """OpenVINO 2026.4 did not compile it where the convolution of its positions was quantised.

    TensorRT's weights have eight bits, whose sums OpenVINO saturates on a CPU without VNNI.
    """
    path = make_graphs("edgenext_xx_small", tmp_path, image_size=SIZE, threads=1).int8[target]
    inputs = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE), dtype=np.float32)
    expected = np.asarray(onnxruntime.InferenceSession(path).run(None, {INPUT_NAME: inputs})[0])
    given = Session(path, threads=1).run(inputs)
    allowed = 0.1 if target == "ort" or has_vnni() else 0.25
    assert np.abs(given - expected).max() < allowed * np.abs(expected).max()
