"""The recipe as a whole: its sections, and the rules between them."""

from typing import Any, Self

from pydantic import Field, model_validator

from compress.recipe.data import Data
from compress.recipe.deploy import BenchmarkLimits, Export
from compress.recipe.section import Section
from compress.recipe.supervision import FeatureTerm, Supervision
from compress.recipe.teacher import Model, Teacher
from compress.recipe.train import Train
from compress.system.hashes import sha256_json


class Recipe(Section):
    """All that a user asks for."""

    data: Data = Field(description="Which pictures.")
    teacher: Teacher = Field(description="The model that the student learns from.")
    student: Model = Field(description="The model that is distilled.")
    supervision: Supervision = Field(default=Supervision(), description="The losses.")
    train: Train = Field(default=Train(), description="How models are trained.")
    export: Export = Field(default=Export(), description="How files are made, and their gates.")
    benchmark: BenchmarkLimits = Field(default=BenchmarkLimits(), description="Limits of the verdict.")

    @model_validator(mode="after")
    def _warmups_are_parts_of_training(self) -> Self:
        train = self.train
        if train.warmup_epochs and train.schedule == "constant":
            raise ValueError("train.warmup_epochs needs train.schedule: cosine or step")
        trained = {"train.epochs": train.epochs}
        for number, member in enumerate(self.teacher.members):
            if member.source == "train" and member.epochs is not None:
                trained[f"teacher.ensemble.{number - 1}.epochs" if number else "teacher.epochs"] = member.epochs
        for key, epochs in trained.items():
            if train.warmup_epochs >= epochs:
                raise ValueError(f"train.warmup_epochs {train.warmup_epochs:g} must be less than {key}, {epochs}")
        epochs, key = train.epochs, "train.epochs"
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
    def _features_need_the_teacher_itself(self) -> Self:
        if features := [term.name for term in self.supervision.terms if isinstance(term, FeatureTerm)]:
            looks = f"{features[0]} of supervision.terms looks inside"
            if self.teacher.cache is not None:
                raise ValueError(f"{looks} the teacher, of which teacher.cache keeps the logits alone: leave one out")
            if self.teacher.ensemble:
                raise ValueError(f"{looks} one teacher, and teacher.ensemble has several: leave one out")
        return self

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data for JSON, with every key."""
        return self.model_dump(mode="json")

    @property
    def sha256(self) -> str:
        """Hash of the recipe. The place of the data does not count."""
        content = self.dump()
        content["data"].pop("root")
        return sha256_json(content)
