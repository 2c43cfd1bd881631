"""What a student's file is fairly compared with: the teacher's file in the same runtime, of the same precision."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from export.benchmark.candidates import Candidate
from export.benchmark.timing import like_for_like


def on_gpu(name: str) -> Candidate:
    return dataclasses.replace(candidate(name, "torch", "fp32", nn.Identity()), on_gpu=True)


def candidate(name: str, runtime: Any, precision: Any, module: nn.Module | None = None) -> Candidate:
    role: Any = name.split(".")[0]
    return Candidate(name, role, runtime, precision, Path(name), "", 0, [], [], module)


ALL = [
    candidate("teacher.torch", "torch", "fp32", nn.Identity()),
    candidate("student.torch", "torch", "fp32", nn.Identity()),
    candidate("teacher.onnx", "ort", "fp32"),
    candidate("teacher.int8.onnx", "ort", "int8"),
    candidate("student.onnx", "ort", "fp32"),
    candidate("student.fp16.onnx", "ort", "fp16"),
    candidate("student.int8.onnx", "ort", "int8"),
    candidate("student.fp32.engine", "trt", "fp32"),
]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("student.int8.onnx", "teacher.int8.onnx"),
        ("student.onnx", "teacher.onnx"),
        ("student.fp16.onnx", "teacher.onnx"),
        ("student.fp32.engine", None),
        ("student.torch", None),
        ("teacher.int8.onnx", None),
    ],
)
def test_the_reference_is_of_the_same_runtime_and_precision(name: str, reference: str | None) -> None:
    assert like_for_like(next(entry for entry in ALL if entry.name == name), ALL) == reference


def test_an_engine_without_an_engine_of_the_teacher_is_compared_with_the_teacher_on_the_same_gpu() -> None:
    engine, fp16 = candidate("student.engine", "trt", "fp32"), candidate("student.fp16.engine", "trt", "fp16")
    there = [*ALL, engine, fp16, on_gpu("teacher.torch:cuda"), on_gpu("student.torch:cuda")]
    assert like_for_like(engine, there) == "teacher.torch:cuda"
    assert like_for_like(ALL[4], there) == "teacher.onnx"
    assert like_for_like(there[-1], there) is None
    assert like_for_like(fp16, [*there, candidate("teacher.engine", "trt", "fp32")]) == "teacher.engine"
    assert {entry.device for entry in there[-4:]} == {"cuda"}
