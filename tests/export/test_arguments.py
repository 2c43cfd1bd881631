"""Arguments of the export's Python API that are of another kind are refused in words, before anything is made."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from compress.system.errors import EXIT_USAGE, UsageError
from export import benchmark_run, export_run, push_run, report_runs

RUN = "run must be Run or str or Path, and is a "
WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (export_run, {"run": None}, RUN + "NoneType"),
    (export_run, {"run": 3}, RUN + "int"),
    (export_run, {"precisions": ("fp8",)}, "precisions: 'fp8' is none of fp32, fp16, bf16, int8"),
    (export_run, {"precisions": "int8"}, "precisions must be list or tuple .* and is a str"),
    (export_run, {"precisions": ()}, "precisions names none of fp32, fp16"),
    (export_run, {"formats": ("tflite",)}, "formats: 'tflite' is none of onnx, trt, openvino"),
    (export_run, {"formats": [None]}, "formats: an entry must be str, and is a NoneType"),
    (export_run, {"formats": []}, "formats names none of onnx"),
    (export_run, {"bundle": True}, "bundle: an entry must be str, and is a bool. It is folder or zip, or None"),
    (export_run, {"bundle": "tar"}, "bundle: 'tar' is none of folder, zip"),
    (export_run, {"threads": "1"}, "threads must be int or None, and is a str"),
    (export_run, {"threads": True}, "threads must be int or None, and is a bool"),
    (export_run, {"threads": 0}, "threads must be at least 1, and is 0"),
    (export_run, {"preprocess": "yes"}, "preprocess must be bool"),
    (export_run, {"teacher": nn.Linear(2, 2)}, "teacher must be bool, and is a Linear"),
    (export_run, {"model": nn.Linear}, "model must be Module or None, and is the class Linear"),
    (export_run, {"compute_capabilities": "89"}, r"compute_capabilities must be list .* and is a str\. .*89"),
    (export_run, {"overrides": "export.x=0"}, r"overrides must be list or tuple, and is a str\. .*export\.KEY=VALUE"),
    (benchmark_run, {"run": None}, RUN + "NoneType"),
    (benchmark_run, {"runtimes": "ort"}, "runtimes must be list .* and is a str"),
    (benchmark_run, {"batches": 1}, "batches must be list .* and is a int"),
    (benchmark_run, {"threads": ["1"]}, "threads: an entry must be int, and is a str"),
    (benchmark_run, {"min_seconds": "3"}, "min_seconds must be int or float, and is a str"),
    (benchmark_run, {"min_runs": 1.5}, "min_runs must be int, and is a float"),
    (benchmark_run, {"student": "net"}, "student must be Module or None, and is a str"),
    (benchmark_run, {"overrides": "benchmark.p90_ms=5"}, "overrides must be list or tuple, and is a str"),
    (push_run, {"repo": None}, r"repo must be str, and is a NoneType\. For example: you/cifar100"),
    (push_run, {"run": None, "repo": "you/net"}, RUN + "NoneType"),
    (push_run, {"repo": "you/net", "private": "no"}, "private must be bool, and is a str"),
    (push_run, {"repo": "you/net", "dry_run": None}, "dry_run must be bool, and is a NoneType"),
    (report_runs, {"runs": None}, "runs must be list .* and is a NoneType"),
    (report_runs, {"runs": [3]}, "runs: an entry must be Run or str or Path, and is a int"),
    (report_runs, {"out": 3}, "out must be str or Path or None, and is a int"),
]


@pytest.mark.parametrize(("verb", "arguments", "words"), WRONG, ids=[f"{v.__name__}-{a}" for v, a, _ in WRONG])
def test_it_is_refused_in_words(home: Path, verb: Callable[..., Any], arguments: dict[str, Any], words: str) -> None:
    (run,) = home.glob("runs/*/manifest.json")
    named = {"runs" if verb is report_runs else "run": run.parent}
    before = sorted(home.rglob("*"))
    with pytest.raises(UsageError, match=words) as caught:
        verb(**{**named, **arguments})
    assert caught.value.code == EXIT_USAGE
    assert sorted(home.rglob("*")) == before
