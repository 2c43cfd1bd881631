"""How the recommended file was run stands below the verdict: file, runtime, precision and options of the session."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import report_runs
from export.benchmark import Benchmark, CandidateResult
from export.report.as_run import as_run

Change = Callable[..., Path]
OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16"}


def candidate(**changes: Any) -> CandidateResult:
    nothing = {"source": "not run", "reason": ""}
    content = {
        "name": "student.onnx:openvino:bf16",
        "role": "student",
        "runtime": "openvino",
        "precision": "bf16",
        "file": "student.onnx",
        "options": OPTIONS,
        "device": "cpu",
        "deployable": True,
        "size_bytes": 1,
        "sha256": "",
        **dict.fromkeys(("accuracy", "latency", "memory"), nothing),
    }
    return CandidateResult.model_validate({**content, **changes})


def test_file_runtime_precision_and_options_are_said() -> None:
    assert as_run(candidate()) == (
        "It was run from student.onnx in OpenVINO, bf16: PERFORMANCE_HINT=LATENCY, INFERENCE_PRECISION_HINT=bf16; "
        "compiled for the shape of its input."
    )
    options = {"intra_op_num_threads": "4", "inter_op_num_threads": "1"}
    assert as_run(candidate(runtime="ort", precision="int8", file="student.int8.onnx", options=options)) == (
        "It was run from student.int8.onnx in ONNX Runtime, int8: intra_op_num_threads=4, inter_op_num_threads=1."
    )


def test_what_has_no_options_has_nothing_to_say() -> None:
    assert as_run(candidate(runtime="trt", options={})) == ""


@pytest.mark.slow
def test_the_page_and_the_text_say_it_of_the_recommended_file(changed: Change, result: Benchmark) -> None:
    best = result.candidate(str(result.verdict.recommended))
    assert best.options
    for path in report_runs([changed("as run")]):
        assert path.read_text(encoding="utf-8").count(as_run(best)) == 1
