"""The recipe as a whole: its sections, and the rules between them."""

from typing import Any, Self

from pydantic import Field, model_validator

from compress.recipe.data import Data
from compress.recipe.deploy import BenchmarkLimits, Export
from compress.recipe.section import Section
from compress.recipe.supervision import Dkd, FeatureTerm, Supervision
from compress.recipe.teacher import Student, Teacher
from compress.recipe.train import TeacherTrain, Train, TrainSettings
from compress.system.hashes import sha256_json


class Recipe(Section):
    """All that a user asks for."""

    data: Data = Field(description="Which pictures.")
    teacher: Teacher = Field(description="The model that the student learns from.")
    student: Student = Field(description="The model that is distilled.")
    supervision: Supervision = Field(default=Supervision(), description="The losses.")
    train: Train = Field(default=Train(), description="How models are trained.")
    export: Export = Field(default=Export(), description="How files are made, and their gates.")
    benchmark: BenchmarkLimits = Field(default=BenchmarkLimits(), description="Limits of the verdict.")

    @model_validator(mode="after")
    def _epochs_have_room(self) -> Self:
        """Epochs that are open are judged once they are decided (`compress.runs.resolve`)."""
        trainings: list[tuple[str, str, TeacherTrain, int | None]]
        trainings = [("train.", "train.epochs", self.train, self.train.epochs)]
        for number, member in enumerate(self.teacher.members):
            path = f"teacher.ensemble.{number - 1}." if number else "teacher."
            if member.trained_here:
                own = member.train
                if own is None and (member.source == "finetune") != self.student.published:
                    continue  # it takes neither epochs from train nor what is counted in them
                epochs = member.epochs or (None if own is None else own.epochs)
                section = "train." if own is None else f"{path}train."
                key = f"{path}epochs" if member.epochs or own is None else f"{section}epochs"
                trainings.append((section, key, own or self.train, epochs))
        for section, key, train, epochs in trainings:
            warmup = train.warmup_epochs or 0.0
            if warmup and train.schedule == "constant":
                raise ValueError(f"{section}warmup_epochs needs {section}schedule: cosine or step")
            if epochs is not None and warmup >= epochs:
                raise ValueError(f"{section}warmup_epochs {warmup:g} must be less than {key}, {epochs}")
            if epochs is not None and train.freeze_epochs >= epochs:
                raise ValueError(f"{section}freeze_epochs {train.freeze_epochs:g} must be less than {key}, {epochs}")
        return self

    @model_validator(mode="after")
    def _terms_end_within_training(self) -> Self:
        train, epochs, key = self.train, self.train.epochs, "train.epochs"
        if epochs is None:
            return self
        if train.quantize is not None:
            epochs, key = epochs + train.quantize_epochs, "train.epochs and train.quantize_epochs together"
        for number, (start, risen) in enumerate((t.schedule.start, t.schedule.risen) for t in self.supervision.terms):
            term = f"supervision.terms.{number}.schedule"
            if start >= epochs:
                raise ValueError(f"{term}.start {start:g} must be less than {key}, {epochs}")
            if risen > epochs:
                raise ValueError(f"{term}.warmup ends at epoch {risen:g}, which must not be after {key}, {epochs}")
        return self

    @model_validator(mode="after")
    def _assistants_start_like_the_student(self) -> Self:
        for number, assistant in enumerate(self.teacher.assistants):
            if assistant.published != self.student.published:
                raise ValueError(
                    f"teacher.assistants.{number} and the student share the train section: both must start with "
                    "published weights (pretrained), or neither"
                )
        return self

    @model_validator(mode="after")
    def _features_need_the_teacher_itself(self) -> Self:
        if features := [term.name for term in self.supervision.terms if isinstance(term, FeatureTerm)]:
            looks = f"{features[0]} of supervision.terms looks inside"
            if self.teacher.cache is not None:
                raise ValueError(f"{looks} the teacher, of which teacher.cache keeps the logits alone: leave one out")
            if self.teacher.ensemble:
                raise ValueError(f"{looks} one teacher, and teacher.ensemble has several: leave one out")
        return self

    @model_validator(mode="after")
    def _something_learns_from_unlabeled_pictures(self) -> Self:
        if self.data.unlabeled is None:
            return self
        if self.supervision.method == "ce" and all(isinstance(term, Dkd) for term in self.supervision.terms):
            dkd = " with dkd" if self.supervision.terms else ""
            raise ValueError(
                f"supervision.method ce{dkd} needs labels, which the pictures of data.unlabeled do not have: choose "
                "kd, or leave data.unlabeled out"
            )
        if self.teacher.cache is not None and self.data.augment.mixes:
            raise ValueError(
                "teacher.cache keeps one mixed pair a picture, and those of data.unlabeled may be in several pairs of "
                "an epoch: leave out teacher.cache, data.unlabeled, or data.augment.mixup and cutmix"
            )
        return self

    @property
    def training(self) -> TrainSettings:
        """The settings of the student's training. Open ones have their defaults."""
        return self.train.decided(published=self.student.published)

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data for JSON, with every key."""
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Hash of the recipe. The place of the data does not count."""
        content = self.dump()
        content["data"] = self.data.anywhere.model_dump(mode="json", exclude={"root"})
        return sha256_json(content)
