"""What the JSON files of a run folder hold: the manifest, and what was measured of a teacher.

Everybody reads and writes these files through the models here. Accuracies are fractions. An older file may lack what
has a default; what a newer one has besides is kept.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from compress.system import files
from compress.system.errors import InputError, first_line

Status = Literal["running", "finished", "failed"]


class Record(BaseModel):
    """A JSON file of a run folder, or a part of one."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    def __getitem__(self, name: str) -> Any:
        """An entry by name, as scripts read them that were written when this was a dictionary."""
        return getattr(self, name)

    def dump(self) -> dict[str, Any]:
        """As JSON, without what is not known yet."""
        return self.model_dump(mode="json", exclude_none=True)

    def write(self, path: Path) -> None:
        files.write_json(path, self.dump())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises FileNotFoundError, and InputError where the file is damaged."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            hint = "Use the compress that wrote it." if where == "schema_version" else ""
            raise InputError(f"{path} cannot be read ({where + ': ' if where else ''}{first['msg']})", hint) from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({first_line(error)})") from None


class MemberRecord(Record):
    """One of several teachers."""

    model: str
    source: str
    sha256: str
    top1: float


class TeacherRecord(Record):
    """What was measured of a teacher. It lies beside its weights, written last: without it they are not whole."""

    source: str
    sha256: str
    """Of its weights."""
    data: str
    """Hash of the data that it was measured on."""
    top1: float
    balanced_top1: float
    members: list[MemberRecord] | None = None


class AssistantRecord(Record):
    """One of the models between teacher and student, which is a run of its own."""

    model: str
    run: str
    sha256: str
    top1: float


class DataRecord(Record):
    """What a run was trained and evaluated on."""

    name: str
    sha256: str
    num_classes: int
    train_images: int
    eval_images: int
    eval_split: str
    balanced: bool = True


class Manifest(Record):
    """manifest.json. What a run measured is there once it is finished."""

    schema_version: Literal[1]
    status: Status
    recipe: str = ""
    method: str = ""
    seed: int = 0
    recipe_sha256: str = ""
    versions: dict[str, str] = {}
    device: str = ""
    processes: int = 1
    started: str = ""
    seconds: float = 0.0
    error: str | None = None
    data: DataRecord | None = None
    teacher: TeacherRecord | None = None
    assistants: list[AssistantRecord] = []
    teacher_top1: float | None = None
    teacher_balanced_top1: float | None = None
    student_top1: float | None = None
    student_balanced_top1: float | None = None
    student_sha256: str | None = None
    int8_input_ranges: dict[str, list[float]] | None = None
    """[lowest, highest] input by layer, of a student that was fine-tuned for INT8."""

    @property
    def finished(self) -> bool:
        return self.status == "finished"


class FinishedManifest(Manifest):
    """The manifest of a finished run: what it measured is there."""

    data: DataRecord  # type: ignore[assignment]
    teacher: TeacherRecord  # type: ignore[assignment]
    teacher_top1: float  # type: ignore[assignment]
    student_top1: float  # type: ignore[assignment]
    student_balanced_top1: float  # type: ignore[assignment]
    student_sha256: str  # type: ignore[assignment]
