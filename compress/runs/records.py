"""The JSON files of a run folder as typed models: the manifest, and what was measured of a teacher.

In: a file. Out: a model, and back. All code reads and writes these files through the models here. Accuracies are
fractions. Fields with a default may be missing in older files. Unknown fields of newer files are kept.
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
        """An entry by name. Older scripts read the manifest as a dictionary."""
        if name not in type(self).model_fields and name not in (self.model_extra or {}):
            raise KeyError(name)
        return getattr(self, name)

    def dump(self) -> dict[str, Any]:
        """As JSON, without entries that are None."""
        return self.model_dump(mode="json", exclude_none=True)

    def write(self, path: Path) -> None:
        """Writes the file atomically. Raises MachineError where it cannot be written."""
        files.write_json(path, self.dump())

    @classmethod
    def read(cls, path: Path) -> Self:
        """The model of a file.

        Raises:
            FileNotFoundError: there is no such file.
            InputError: it is damaged, or of a newer version.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            hint = ""
            if where == "schema_version":
                bundle = b'"default_model"' in path.read_bytes()
                hint = "That is a bundle: see compress verify." if bundle else "Use the compress that wrote it."
            raise InputError(f"{path} cannot be read ({where + ': ' if where else ''}{first['msg']})", hint) from None
        except OSError as error:
            raise InputError(f"{path} cannot be read ({first_line(error)})") from None


class MemberRecord(Record):
    """One member of an ensemble of teachers."""

    model: str
    source: str
    sha256: str
    top1: float | None = None


class TeacherRecord(Record):
    """What was measured of a teacher.

    The file is beside the weights and is written last: without it the weights are not complete.

    Attributes:
        sha256: of the weights.
        data: hash of the data on which it was measured.
        top1: None for a teacher without a last layer.
        balanced_top1: None for a teacher without a last layer.
    """

    source: str
    sha256: str
    data: str
    top1: float | None = None
    balanced_top1: float | None = None
    members: list[MemberRecord] | None = None

    @property
    def identity(self) -> tuple[str, ...]:
        """Hashes of all weights. An ensemble's own hash also depends on how the images beside it are normalised."""
        return (self.sha256,) if self.members is None else tuple(member.sha256 for member in self.members)


class AssistantRecord(Record):
    """One of the models between teacher and student, which is a run itself."""

    model: str
    run: str
    sha256: str
    top1: float


class DataRecord(Record):
    """The data on which a run was trained and evaluated.

    Attributes:
        warnings: what people should know of the data, a sentence each.
        balanced: whether all classes have equally many images.
        left_out: why images could not be read that were left out, by their path.
    """

    name: str
    sha256: str
    num_classes: int
    train_images: int
    unlabeled_images: int = 0
    eval_images: int
    eval_split: str
    balanced: bool = True
    warnings: list[str] = []
    left_out: dict[str, str] = {}


class Manifest(Record):
    """manifest.json. A run that is not finished may lack its results.

    Attributes:
        working_folder: in which the run was begun. Relative places of data and weights in its recipe are below it.
        int8_input_ranges: [lowest, highest] input by layer, for a student that was fine-tuned for INT8.
    """

    schema_version: Literal[1]
    status: Status
    recipe: str = ""
    method: str = ""
    seed: int = 0
    recipe_sha256: str = ""
    versions: dict[str, str] = {}
    device: str = ""
    processes: int = 1
    working_folder: str = ""
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

    @property
    def finished(self) -> bool:
        return self.status == "finished"


class FinishedManifest(Manifest):
    """The manifest of a finished run. All results are there."""

    data: DataRecord  # type: ignore[assignment]
    teacher: TeacherRecord  # type: ignore[assignment]
    student_top1: float  # type: ignore[assignment]
    student_balanced_top1: float  # type: ignore[assignment]
    student_sha256: str  # type: ignore[assignment]

    @property
    def teacher_classifies(self) -> bool:
        """Whether the teacher has a last layer. One without teaches by its features, and answers nothing."""
        return self.teacher_top1 is not None

    @property
    def teacher_accuracy(self) -> str:
        """For people. A teacher without a last layer has none."""
        return "no last layer" if self.teacher_top1 is None else f"{self.teacher_top1:.2%}"
