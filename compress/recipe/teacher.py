"""The recipe's models: the teacher with its ensemble and assistants, and the entry of any model."""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from compress.recipe.section import Section
from compress.recipe.train import TeacherTrain, TrainSettings


class Model(Section):
    """A model by timm's name."""

    model: str = Field(min_length=1, description="A timm model name.")
    stem: Literal["auto", "small", "stock"] = Field(
        default="auto",
        description="small: stride 1 and no max-pool, for ResNets on up to 64 pixels. stock: timm's own. "
        "auto: small where it can be.",
    )
    args: dict[str, Any] = Field(default_factory=dict, description="Arguments for timm.create_model.")

    @property
    def published(self) -> bool:
        """Whether it starts with published weights."""
        return False

    @field_validator("args")
    @classmethod
    def _finite(cls, value: dict[str, Any]) -> dict[str, Any]:
        json.dumps(value, allow_nan=False)  # raises ValueError
        return value


class Student(Model):
    """The model that is distilled, or an assistant between it and the teacher."""

    pretrained: bool | str = Field(
        default=False,
        description="true: start with the weights that timm publishes for it. A path: with those of that file, or of "
        "a folder with config.json and model.safetensors. The last layer is new where the classes differ. The model "
        "keeps its own mean, std, interpolation and crop_pct.",
    )

    @property
    def published(self) -> bool:
        """Whether it starts with published weights."""
        return self.pretrained is not False


def _from_name(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


NamedStudent = Annotated[Student, BeforeValidator(_from_name, json_schema_input_type=str | Student)]
"""A model, or its name alone."""


class TeacherCache(Section):
    """The teacher's logits, kept for augmentations that repeat."""

    views: int = Field(ge=1, le=10_000, description="Augmentations of each sample. After so many epochs they repeat.")


class Member(Model):
    """A teacher, or one of several in an ensemble."""

    source: Literal["train", "finetune", "checkpoint", "pretrained"] = Field(
        default="train",
        description="train: trained here from random weights, once. finetune: trained here from the weights that timm "
        "publishes or of teacher.weights, with a new last layer where the classes differ. checkpoint: weights of yours "
        "as they are. pretrained: published weights as they are.",
    )
    checkpoint: str | None = Field(
        default=None,
        description="A file of weights, or a folder with model.safetensors. A config.json beside them says mean and "
        "std, as timm's save_for_hf writes it. Default of mean and std: the data set's.",
    )
    weights: str | None = Field(
        default=None,
        description="For finetune and pretrained: a folder with config.json and model.safetensors, or a file of "
        "weights, in place of those that timm publishes.",
    )
    train: TeacherTrain | None = Field(
        default=None,
        description="Settings of its own training, if it is trained here. What is not set is the recipe's train, apart "
        "from freeze. Where one of teacher and student starts with published weights and the other does not, then "
        "epochs, optimizer, lr, head_lr, weight_decay, warmup_epochs and freeze_epochs have their defaults instead.",
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Short for train.epochs, before which it comes. The others of an ensemble take the teacher's.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**31, description="Its own seed, so that students of all seeds share a teacher."
    )
    image_size: int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description="Pixels a side of the images that it sees. Default: data.image_size. Beside the student it sees "
        "the student's images, resized.",
    )

    @property
    def trained_here(self) -> bool:
        return self.source in ("train", "finetune")

    @property
    def training(self) -> TrainSettings:
        """The settings of its training. For a resolved recipe."""
        assert self.train is not None
        return TrainSettings.model_validate({**self.train.model_dump(), "seed": self.seed})

    @property
    def published(self) -> bool:
        """Whether its weights are published ones, as they are or to be fine-tuned."""
        return self.source in ("finetune", "pretrained")

    @model_validator(mode="after")
    def _keys_go_with_the_source(self) -> Self:
        if (self.source == "checkpoint") != (self.checkpoint is not None):
            raise ValueError("teacher.checkpoint is needed with, and only with, teacher.source: checkpoint")
        if self.weights is not None and not self.published:
            raise ValueError("teacher.weights is for teacher.source: finetune or pretrained")
        if self.source == "pretrained" and (self.train, self.epochs) != (None, None):
            raise ValueError(
                "teacher.train and teacher.epochs do nothing with teacher.source: pretrained, which takes published "
                "weights as they are. finetune trains them"
            )
        return self


NamedMember = Annotated[Member, BeforeValidator(_from_name, json_schema_input_type=str | Member)]


class Teacher(Member):
    """The model that the student learns from, and what stands beside it."""

    ensemble: list[NamedMember] = Field(
        default=[],
        description="More teachers beside this one. The targets are the mean of their probabilities. Its logarithm, "
        "centred over the classes, stands for logits where a temperature or a cosine needs them. An entry "
        "has the keys of teacher up to seed. A name is short for {model: NAME}.",
    )
    assistants: list[NamedStudent] = Field(
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
        """The teacher itself and the other members of its ensemble."""
        return [self, *self.ensemble]
