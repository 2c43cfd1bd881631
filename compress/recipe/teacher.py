"""The recipe's models: the teacher with its ensemble and assistants, and the entry of any model."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress.recipe.section import Section


class Model(Section):
    model: str = Field(min_length=1, description="A timm model name.")
    stem: Literal["auto", "small", "stock"] = Field(
        default="auto",
        description="small: stride 1 and no max-pool, for ResNets on up to 64 pixels; auto: small where it can.",
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
    views: int = Field(ge=1, le=10_000, description="Augmentations of each sample; then they repeat.")


class Member(Model):
    """A teacher, or one of several."""

    source: Literal["train", "checkpoint", "pretrained"] = "train"
    checkpoint: str | None = Field(
        default=None,
        description="A file of weights, beside which a config.json says mean and std, or a folder of both, as timm's "
        "save_for_hf makes it. Default of mean and std: the data set's.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Default: train.epochs; of the others in an ensemble teacher.epochs.",
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Its own, so that students of all seeds share a teacher.")

    @model_validator(mode="after")
    def _checkpoint_goes_with_its_source(self) -> Self:
        if (self.source == "checkpoint") != (self.checkpoint is not None):
            raise ValueError("teacher.checkpoint is needed with, and only with, teacher.source: checkpoint")
        return self


NamedMember = Annotated[Member, BeforeValidator(_from_name, json_schema_input_type=str | Member)]


class Teacher(Member):
    ensemble: list[NamedMember] = Field(
        default=[],
        description="Further teachers beside this one: the targets are the mean of all their probabilities, which for "
        "temperatures and cosines counts as logits by its logarithm. A name is short for {model: NAME}.",
    )
    assistants: list[NamedModel] = Field(
        default=[],
        description="Models between teacher and student, from large to small: each is distilled from the one before, "
        "with the recipe's supervision and train settings and the teacher's seed, and the student from the last. "
        "A name is short for {model: NAME}. They are kept in runs/assistants (arXiv 1902.03393).",
    )
    cache: TeacherCache | None = Field(default=None, description="Keep its logits for repeated augmentations.")

    @property
    def members(self) -> list[Member]:
        """The teacher itself and the other members of its ensemble."""
        return [self, *self.ensemble]
