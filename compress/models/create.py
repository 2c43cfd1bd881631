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

_RESERVED = ("num_classes", "in_chans", "pretrained", "pretrained_cfg", "checkpoint_path", "features_only")
_OF_OTHER_WEIGHTS = ("url", "file", "hf_hub_id", "tag", "license", "origin_url", "paper_ids", "notes")


def architecture(settings: Model, image_size: int) -> str:
    """The timm name that the recipe's model and stem stand for.

    Args:
        image_size: pixels. `stem: auto` takes the small stem up to 64.

    Raises:
        UsageError: timm has no such model, or the small stem is asked for where there is none.
    """
    if ":" in settings.model:  # local-dir:PATH, hf-hub:REPO
        return settings.model
    small = known_architecture(settings.model) + small_stem.SUFFIX
    if settings.stem == "small" and not timm.is_model(small):
        raise UsageError(f"stem: small is for timm's ResNets, and {settings.model} is none", "Use stem: stock.")
    wants_small = settings.stem == "small" or (settings.stem == "auto" and image_size <= 64)
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
    if reserved := [key for key in settings.args if key in _RESERVED]:
        raise UsageError(f"args cannot set {reserved[0]}", "It follows from the data and the recipe.")
    model: Any = make_timm_model(name, settings.args, image_size, num_classes=num_classes)
    model.pretrained_cfg = {key: value for key, value in model.pretrained_cfg.items() if key not in _OF_OTHER_WEIGHTS}
    return model


def make_timm_model(name: str, args: dict[str, Any], image_size: int, **kwargs: Any) -> nn.Module:
    """timm.create_model for images of that size.

    Args:
        args: the recipe's arguments.
        kwargs: further arguments, which take precedence.

    Raises:
        UsageError: timm cannot make the model with these arguments.
        Exception: with pretrained=True, whatever timm raises where published weights are not available.
    """
    merged = {**args, **kwargs}
    published = None if ":" in name else timm.get_pretrained_cfg(name)
    if published is not None and published.fixed_input_size:
        merged.setdefault("img_size", image_size)
    try:
        return timm.create_model(name, **merged)
    except Exception as error:
        if kwargs.get("pretrained") and not isinstance(error, TypeError):
            raise  # the weights are not available; the caller explains it
        # timm answers a wrong argument with any kind of exception.
        raise UsageError(
            f"timm cannot make {name} with {args} ({first_line(error)})", "Check model and args."
        ) from error
