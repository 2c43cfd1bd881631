"""The last layer of a classifier: what its weights are called, and how many classes they tell apart."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_AUTHORS_HEADS = ("head.weight", "fc.weight", "classifier.weight")
"""Last layers in files of other authors, whose names timm changes when it loads them."""


def classifier_names(model: Any) -> tuple[str, ...]:
    """What the names of the weights for classes begin with, such as ("classifier.",); several for several heads.

    timm's pretrained_cfg says it; else it is what get_classifier returns.
    """
    if named := (model.pretrained_cfg or {}).get("classifier"):
        names = [named] if isinstance(named, str) else named
    else:
        last = model.get_classifier()
        heads = list(last) if isinstance(last, tuple | list | nn.ModuleList) else [last]
        names = [name for name, module in model.named_modules() if any(module is head for head in heads)]
    return tuple(f"{name}." for name in names)


def classes_of(weights: Mapping[str, Tensor], head: tuple[str, ...], cfg: Mapping[str, Any]) -> int:
    """The number of classes of the last layer in a file, apart from one for the background; 0 where it has none.

    Args:
        weights: by their names in the file.
        head: as `classifier_names` has it.
        cfg: timm's pretrained_cfg.
    """
    own = [name for name in weights if name.startswith(head) and name.endswith("weight")]
    for name in (*own, *_AUTHORS_HEADS):
        if (weight := weights.get(name)) is not None and weight.shape[2:] in ((), (1, 1)) and weight.dim() > 1:
            return weight.shape[0] - (cfg.get("label_offset") or 0)
    return cfg.get("num_classes") or 0
