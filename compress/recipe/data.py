"""The recipe's data section: the data set, the image size and the augmentation."""

from typing import Literal, Self

from pydantic import Field, model_validator

from compress.recipe.section import Section

_ONLY_FOR = {
    **dict.fromkeys(("train", "evaluation", "label_column"), ("csv", "hub")),
    "path_column": ("csv",),
    **dict.fromkeys(("image_column", "repo", "subset", "revision"), ("hub",)),
}
"""Settings of some kinds of data alone."""
AUTO = (
    r"^(trivial|original|originalr|v0|v0r|3a"
    r"|rand(-(m\d+|n[1-9]\d*|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|tweights|t3aw?))*"
    r"|augmix(-(m\d+|w[1-9]\d*|d[1-9]\d*|b[01]|mstd\d+(\.\d+)?))*)$"
)


class Augment(Section):
    """Random changes of the training images, drawn anew for every sample and epoch."""

    crop: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Padding in pixels before a random crop. 0 is off. Default: what suits the data set.",
    )
    flip: bool | None = Field(default=None, description="Mirror half of the images. Default: what suits the data set.")
    scale: float = Field(default=1.0, gt=0, le=1, description="Smallest area of a random resized crop. 1 is off.")
    color_jitter: float = Field(
        default=0.0,
        ge=0,
        description="How far brightness, contrast and saturation change, as in timm, where 0.4 is usual. 0 is off.",
    )
    auto: str | None = Field(
        default=None,
        pattern=AUTO,
        description="timm's RandAugment, AugMix or AutoAugment, such as rand-m9-mstd0.5-inc1, augmix-m3-w3 or "
        "original. Or torchvision's TrivialAugment: trivial.",
    )
    erase: float = Field(default=0.0, ge=0, le=1, description="Probability that a random rectangle is erased.")
    erase_mode: Literal["const", "rand", "pixel"] = Field(
        default="pixel",
        description="What erase fills a rectangle with: the mean colour, a random colour, or one for each pixel.",
    )
    mixup: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Average pairs of images by shares from Beta(mixup, mixup). 0.2 and 0.8 are usual. 0 is off.",
    )
    cutmix: float = Field(
        default=0.0,
        ge=0,
        le=1000,
        description="Paste a part of one image into another, of an area from Beta(cutmix, cutmix). 1 is usual. 0 is "
        "off. With mixup each image gets one or the other.",
    )

    @property
    def mixes(self) -> bool:
        """Whether pairs of images are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def per_picture(self) -> tuple[str, ...]:
        """Settings in use that change one picture at a time, before it is in a batch (`compress.data.photometric`)."""
        used = {"color_jitter": self.color_jitter > 0, "auto": self.auto is not None}
        return tuple(name for name, value in used.items() if value)


class Data(Section):
    """Which pictures the student learns from, and at which size."""

    name: Literal["cifar100", "cinic10", "tinyimagenet", "digits", "folder", "csv", "hub"] = Field(
        description="The data set. folder: your own pictures, in train/CLASS/ and val/CLASS/ below data.root, or in "
        "CLASS/ with data.holdout. csv: tables of paths and labels. hub: a data set of the Hugging Face Hub."
    )
    root: str | None = Field(
        default=None,
        description="The folder that holds it. Default: $COMPRESS_DATA, then data/. Needed for folder and csv.",
    )
    train: str | None = Field(
        default=None,
        description="csv: the table of the pictures to train on, below data.root. hub: that split. Default: train.",
    )
    evaluation: str | None = Field(
        default=None,
        description="csv: the table of the pictures to evaluate on, below data.root. hub: that split. Default: "
        "validation or the like, else test.",
    )
    path_column: str | None = Field(
        default=None, description="csv: the column of paths, which are relative to the table. Default: found."
    )
    label_column: str | None = Field(default=None, description="csv, hub: the column of labels. Default: found.")
    image_column: str | None = Field(default=None, description="hub: the column of pictures. Default: found.")
    repo: str | None = Field(
        default=None, description="hub: USER/NAME, or a folder of the same format. Needed for hub."
    )
    subset: str | None = Field(default=None, description="hub: one of several configurations of the data set.")
    revision: str | None = Field(default=None, description="hub: a branch, tag or commit. Default: main, at first use.")
    image_size: int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description="Pixels a side. Default: the data set's own. Needed for folder, csv and hub.",
    )
    fit: Literal["crop", "stretch", "pad"] | None = Field(
        default=None,
        description="How a picture becomes a square, in training, evaluation and in what is exported. crop: its "
        "centre. stretch: the whole, out of proportion. pad: the whole, with borders. Default: what published weights "
        "of the student say (timm's crop_mode), else crop.",
    )
    crop_pct: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="For evaluation the picture is resized to image_size / crop_pct (crop: its shorter side; pad: the "
        "longer; stretch: both), and the centre is cropped. "
        "Default: what published weights of the student say, else 1.",
    )
    loader: Literal["auto", "resident", "stream"] = Field(
        default="auto",
        description="Where the training images are. resident: decoded once to squares of image_size, which stay on the "
        "device. stream: decoded from their files for each use, so that random crops see the full resolution, and "
        "memory does not grow with their number. auto: stream where augmentation changes single pictures, and for "
        "pictures of your own where augment.scale is below 1 or where the squares would take more than half of the "
        "free memory.",
    )
    on_bad_image: Literal["error", "skip"] = Field(
        default="error",
        description="What happens where pictures cannot be read. error: nothing is trained, and they are listed. skip: "
        "they are left out of training and evaluation, and counted. More than one in a hundred are an error even then. "
        "unlabeled is counted for itself.",
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

    unlabeled: str | None = Field(
        default=None,
        description="A folder of more pictures, at any depth, which the teacher supervises alone. Copies of pictures "
        "to evaluate on are left out.",
    )
    unlabeled_share: float = Field(
        default=0.5, gt=0, lt=1, description="Part of each batch that comes from unlabeled. An epoch gets longer by it."
    )

    @property
    def anywhere(self) -> "Data":
        """The section without the places of its pictures, which differ from machine to machine."""
        return self.model_copy(update={"root": None, "unlabeled": None if self.unlabeled is None else "anywhere"})

    @model_validator(mode="after")
    def _own_pictures_need_a_place_and_a_size(self) -> Self:
        needed = {"folder": ("root",), "csv": ("root", "train"), "hub": ("repo",)}.get(self.name, ())
        keys = (*needed, "image_size") if needed else ()
        if any(getattr(self, key) is None for key in keys):
            raise ValueError(f"data.name: {self.name} needs {' and '.join(f'data.{key}' for key in keys)}")
        for key, names in _ONLY_FOR.items():
            if getattr(self, key) is not None and self.name not in names:
                raise ValueError(f"data.{key} is for data.name: {' or '.join(names)}")
        return self
