"""How a model sees a picture: what becomes of the picture before it is normalised, and how it is normalised.

In: timm's pretrained_cfg, as a model's config.json has it. Out: a Preprocessing, for training, evaluation and export.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError

from compress.system.errors import InputError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Fit = Literal["crop", "stretch", "pad"]
FILTERS: dict[str, Image.Resampling] = {name: Image.Resampling[name.upper()] for name in get_args(Interpolation)}
CROP_MODES: dict[Fit, str] = {"crop": "center", "stretch": "squash", "pad": "border"}
"""timm's crop_mode by our fit."""

PADDED_MEAN, PADDED_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's: with these padded pictures are normalised where weights do not say. Their own would count the borders."""

_FITS: dict[str, Fit] = {mode: fit for fit, mode in CROP_MODES.items()}
_HINT = "mean and std are three numbers each, std above 0."


class _Config(BaseModel):
    """What timm's pretrained_cfg says of a picture. RGB values are in 0..1 before they are normalised."""

    model_config = ConfigDict(allow_inf_nan=False)

    mean: tuple[float, float, float] | None = None
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    interpolation: Interpolation = "bicubic"
    crop_pct: Annotated[float, Field(gt=0)] = 1.0
    crop_mode: Literal["center", "squash", "border"] = "center"


@dataclass(frozen=True)
class Preprocessing:
    """How a model sees a picture.

    Attributes:
        mean: of each channel in 0..1, which is taken off; None for that of the data.
        std: of each channel in 0..1, by which the rest is divided; None for that of the data.
        interpolation: with which a picture is resized, always antialiased.
        crop_pct: for evaluation a picture is resized to the model's image size / crop_pct, and the centre is cropped.
        fit: how a picture becomes a square: see `compress.data.decode.Square`.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    fit: Fit = "crop"

    @classmethod
    def of(cls, cfg: Any, source: str) -> "Preprocessing":
        """What timm's pretrained_cfg says.

        Args:
            cfg: a mapping, which may lack any key.
            source: for error messages, such as the path of config.json.

        Raises:
            InputError: a value is not as timm writes it.
        """
        if not isinstance(cfg, Mapping):
            raise InputError(f"{source}: pretrained_cfg is not as timm writes it", _HINT)
        try:
            known = {key: cfg[key] for key in _Config.model_fields if cfg.get(key) is not None}
            found = _Config.model_validate(known)
        except ValidationError as error:
            key = ".".join(map(str, ("pretrained_cfg", *error.errors()[0]["loc"])))
            raise InputError(
                f"{source}: {key} is not as timm writes it",
                _HINT,
            ) from None
        fit = _FITS[found.crop_mode]
        return cls(found.mean, found.std, found.interpolation, min(found.crop_pct, 1.0), fit)

    def asked(self, fit: Fit | None, crop_pct: float | None) -> "Preprocessing":
        """The same with a fit and crop_pct of a recipe, where it has them."""
        fit, crop_pct = fit or self.fit, crop_pct or self.crop_pct
        mean, std = (PADDED_MEAN, PADDED_STD) if fit == "pad" and self.mean is None else (self.mean, self.std)
        return replace(self, mean=mean, std=std, fit=fit, crop_pct=crop_pct)
