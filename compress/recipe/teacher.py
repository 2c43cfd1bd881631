"""The recipe's models: the teacher with what stands beside it, and the shape of every model's entry.

Imports nothing heavy: a recipe is checked in a moment.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress.recipe.section import Section


class Model(Section):
    """A model by timm's name."""

    model: str = Field(min_length=1, description="A timm model name.")
    stem: Literal["auto", "small", "stock"] = Field(
        default="auto",
        description="small: stride 1 and no max-pool, for ResNets on up to 64 pixels. stock: timm's own. "
        "auto: small where it can be.",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments for timm.create_model.")

    @field_validator("args")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        json.dumps(value, allow_nan=False)  # raises ValueError
        return value


def _from_name(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


NamedModel = Annotated[Model, BeforeValidator(_from_name, json_schema_input_type=str | Model)]
"""A model, or its name alone."""


class TeacherCache(Section):
    """The teacher's logits, kept for augmentations that repeat."""

    views: int = Field(ge=1, le=10_000, description="Augmentations of each sample. After so many epochs they repeat.")


class Member(Model):
    """A teacher, or one of several in an ensemble."""

    source: Literal["train", "checkpoint", "pretrained"] = Field(
        default="train",
        description="train: trained here, once. checkpoint: weights of yours. pretrained: weights that timm publishes.",
    )
    checkpoint: str | None = Field(
        default=None,
        description="A file of weights, or a folder with model.safetensors. A config.json beside them says mean and "
        "std, as timm's save_for_hf writes it. Default of mean and std: the data set's.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Epochs of its training. Default: train.epochs. The others of an ensemble take teacher.epochs.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Its own seed, so that students of all seeds share a teacher."
    )

    @model_validator(mode="after")
    def _checkpoint_goes_with_its_source(self) -> Self:
        if (self.source == "checkpoint") != (self.checkpoint is not None):
            raise ValueError("teacher.checkpoint is needed with, and only with, teacher.source: checkpoint")
        return self


NamedMember = Annotated[Member, BeforeValidator(_from_name, json_schema_input_type=str | Member)]


class Teacher(Member):
    """The model that the student learns from, and what stands beside it."""

    ensemble: list[NamedMember] = Field(
        default=[],
        description="More teachers beside this one. The targets are the mean of their probabilities. Its logarithm "
        "stands for logits where a temperature or a cosine needs them. An entry "
        "has the keys of teacher up to seed. A name is short for {model: NAME}.",
    )
    assistants: list[NamedModel] = Field(
        default=[],
        description="Models between teacher and student, from large to small. Each is distilled from the one before, "
        "with the recipe's supervision and train settings and the teacher's seed. The student is distilled from the "
        "last. An entry has the keys of student. A name is short for {model: NAME}. "
        "They are kept in runs/assistants (arXiv 1902.03393).",
    )
    cache: TeacherCache | None = Field(
        default=None, description="Repeat augmentations, and keep the teacher's logits for them."
    )

    @property
    def members(self) -> list[Member]:
        """The teacher itself and those beside it."""
        return [self, *self.ensemble]
