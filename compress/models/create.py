"""Makes timm models from a recipe.

In: the recipe's model entry. Out: the timm name that it stands for, and a model with fresh or published weights.
"""

from typing import Any

import timm
from torch import nn

from compress.models import small_stem
from compress.models.registry import known_architecture
from compress.recipe import Model
from compress.system.errors import UsageError, first_line

RESERVED = ("num_classes", "in_chans", "pretrained", "pretrained_cfg", "checkpoint_path", "features_only")
_OF_PUBLISHED_WEIGHTS = (
    *("url", "file", "hf_hub_id", "hf_hub_filename", "source", "tag", "state_dict", "custom_load"),
    *("test_input_size", "test_crop_pct", "label_offset"),
)


def architecture(settings: Model, image_size: int) -> str:
    """The timm name that the recipe's model and stem stand for.

    Args:
        image_size: pixels. `stem: auto` takes the small stem up to 64, where weights are random.

    Raises:
        UsageError: timm has no such model, or the small stem is asked for where there is none.
    """
    if ":" in settings.model:  # local-dir:PATH, hf-hub:REPO
        return settings.model
    small = known_architecture(settings.model) + small_stem.SUFFIX
    if settings.stem == "small" and not timm.is_model(small):
        raise UsageError(f"stem: small is for timm's ResNets, and {settings.model} is none", "Use stem: stock.")
    automatic = settings.stem == "auto" and image_size <= 64 and not settings.published
    wants_small = settings.stem == "small" or automatic
    return small if wants_small and timm.is_model(small) else settings.model


def create_model(settings: Model, *, num_classes: int, image_size: int) -> nn.Module:
    """A model with fresh weights from torch's random stream.

    Args:
        settings: the recipe's model entry.
        num_classes: C, the number of its logits.
        image_size: pixels a side.

    Raises:
        UsageError: timm has no such model or refuses the arguments.
    """
    name = architecture(settings, image_size)
    model: Any = make_timm_model(name, settings.args, image_size, num_classes=num_classes)
    origin = ("license", "origin_url", "paper_ids", "notes")
    cfg = {key: value for key, value in without_origin(model.pretrained_cfg).items() if key not in origin}
    model.pretrained_cfg = {**cfg, "input_size": (3, image_size, image_size)}
    return model


def without_origin(cfg: dict[str, Any]) -> dict[str, Any]:
    """timm's pretrained_cfg without what is only true of the published weights: where they are, and for which size."""
    return {key: value for key, value in cfg.items() if key not in _OF_PUBLISHED_WEIGHTS}


def make_timm_model(name: str, args: dict[str, Any], image_size: int, **kwargs: Any) -> nn.Module:
    """timm.create_model for images of that size.

    Args:
        args: the recipe's arguments.
        kwargs: further arguments, which take precedence.

    Raises:
        UsageError: timm cannot make the model with these arguments.
        Exception: with pretrained=True, whatever timm raises where the weights do not fit.
    """
    if reserved := [key for key in args if key in RESERVED]:
        key = reserved[0]
        hint = "Set student.pretrained, or teacher.source." if key == "pretrained" else "It follows from the data."
        raise UsageError(f"args cannot set {key}", hint)
    merged = {**args, **kwargs}
    published = None if ":" in name else timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        merged.setdefault("img_size", image_size)
    try:
        return timm.create_model(name, **merged)
    except Exception as error:
        if kwargs.get("pretrained") and not isinstance(error, TypeError):
            raise  # the weights do not fit; the caller explains it
        # timm answers a wrong argument with any kind of exception.
        raise UsageError(
            f"timm cannot make {name} with {args} ({first_line(error)})", "Check model and args."
        ) from error
