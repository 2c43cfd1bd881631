"""The recipe's data section: the data set, the image size and the augmentation."""

from typing import Literal, Self

from pydantic import Field, model_validator

from compress.recipe.section import Section


class Augment(Section):
    """Random changes of the training images, drawn anew for every sample and epoch."""

    crop: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Padding in pixels before a random crop. 0 is off. Default: what suits the data set.",
    )
    flip: bool | None = Field(default=None, description="Mirror half of the images. Default: what suits the data set.")
    erase: float = Field(default=0.0, ge=0, le=1, description="Probability that a random rectangle is blanked.")
    scale: float = Field(default=1.0, gt=0, le=1, description="Smallest area of a random resized crop. 1 is off.")


class Data(Section):
    """Which pictures the student learns from, and at which size."""

    name: Literal["cifar100", "cinic10", "tinyimagenet", "digits", "folder"] = Field(
        description="The data set. folder: your own pictures, in train/CLASS/ and val/CLASS/ below data.root."
    )
    root: str | None = Field(
        default=None, description="The folder that holds it. Default: $COMPRESS_DATA, then data/. Needed for folder."
    )
    image_size: int | None = Field(
        default=None, ge=4, le=1024, description="Pixels a side. Default: the data set's own. Needed for folder."
    )
    crop_pct: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="For evaluation the shorter side is resized to image_size / crop_pct, and the centre is cropped. "
        "Default: what published weights of the student say, else 1.",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        default="error",
        description="What happens where pictures cannot be read. error: nothing is trained, and they are listed. skip: "
        "they are left out of training and evaluation, and counted. More than one in a hundred are an error even then.",
    )
    augment: Augment = Field(default=Augment(), description="Random changes of the training images.")
    holdout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Evaluate on this part of the training images instead of the official split.",
    )
    label_noise: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part of the training labels that another class replaces, at random (symmetric noise). A data "
        "set and a part always give the same labels. The images of the evaluation keep theirs, also with data.holdout.",
    )

    @model_validator(mode="after")
    def _folder_needs_a_place_and_a_size(self) -> Self:
        if self.name == "folder" and (self.root is None or self.image_size is None):
            raise ValueError("data.name: folder needs data.root and data.image_size")
        return self
