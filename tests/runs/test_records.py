"""What is known of teachers that a run recorded."""

import json
from pathlib import Path

import pytest

from compress.recipe import Student, Teacher
from compress.runs.assistants import as_next_teacher
from compress.runs.folder import Run
from compress.runs.records import Manifest, MemberRecord, TeacherRecord
from compress.system.errors import InputError


def test_an_ensemble_is_known_by_its_members() -> None:
    members = [MemberRecord(model="resnet10t", source="train", sha256=sha256) for sha256 in ("a", "b")]
    assert TeacherRecord(source="ensemble", sha256="c", data="d", members=members).identity == ("a", "b")
    assert TeacherRecord(source="train", sha256="c", data="d").identity == ("c",)


@pytest.mark.parametrize(
    ("assistant", "stem"),
    [
        (Student(model="resnet18", pretrained=True), "stock"),
        (Student(model="resnet18"), "auto"),
        (Student(model="resnet18", stem="small"), "small"),
        (Student(model="resnet18", stem="stock"), "stock"),
    ],
)
def test_an_assistant_teaches_with_the_stem_that_it_was_trained_with(assistant: Student, stem: str) -> None:
    """Published weights come with their stock stem, whatever the size of the pictures."""
    teacher = as_next_teacher(Teacher(model="resnet34", seed=3), assistant, Run(Path("runs/assistant")))
    assert (teacher.stem, teacher.model, teacher.source, teacher.seed) == (stem, "resnet18", "checkpoint", 3)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"schema_version": 2}, "Use the compress that wrote it."),
        ({"schema_version": 2, "default_model": "student.onnx"}, "That is a bundle: see compress verify."),
        ({"seed": "three"}, ""),
    ],
)
def test_a_record_of_a_newer_version_says_what_reads_it(tmp_path: Path, change: dict[str, object], hint: str) -> None:
    content = {"schema_version": 1, "status": "running", "recipe": "r", "method": "kd", "seed": 0, "started": "2026"}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    assert Manifest.read(tmp_path / "manifest.json").seed == 0
    (tmp_path / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=f"cannot be read .{next(iter(change))}: ") as caught:
        Manifest.read(tmp_path / "manifest.json")
    assert caught.value.hint == hint
