"""What is known of teachers that a run recorded."""

from pathlib import Path

import pytest

from compress.recipe import Student, Teacher
from compress.runs.assistants import as_next_teacher
from compress.runs.folder import Run
from compress.runs.records import MemberRecord, TeacherRecord


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
