"""The recipe's data section: the data set, the image size and the augmentation."""

from typing import Literal, Self

from pydantic import Field, model_validator

from compress.recipe.section import Section


class Augment(Section):
    """Drawn anew for every sample and epoch. crop and flip default to what suits the data set."""

    crop: int | None = Field(default=None, ge=0, le=64, description="Padding in pixels before a random crop; 0 is off.")
    flip: bool | None = Field(default=None, description="Mirror half of the images.")
    erase: float = Field(default=0.0, ge=0, le=1, description="Probability of blanking a random rectangle.")
    scale: float = Field(default=1.0, gt=0, le=1, description="Smallest area of a random resized crop; 1 is off.")


class Data(Section):
    name: Literal["cifar100", "cinic10", "tinyimagenet", "digits", "folder"]
    root: str | None = Field(default=None, description="Where it lies. Default: $COMPRESS_DATA, then data/.")
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="Pixels a side. Default: the data set's own."
    )
    augment: Augment = Augment()
    holdout: float = Field(
        default=0.0, ge=0, lt=1, description="Evaluate on this part of train instead of the official split."
    )
    label_noise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of the training labels replaced by another class, uniformly (symmetric noise): always the "
        "same ones for a data set and a part. What is evaluated on keeps its labels, with data.holdout too.",
    )

    @model_validator(mode="after")
    def _folder_needs_a_place_and_a_size(self) -> Self:
        if self.name == "folder" and (self.root is None or self.image_size is None):
            raise ValueError("data.name: folder needs data.root and data.image_size")
        return self
