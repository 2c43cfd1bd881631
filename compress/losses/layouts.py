"""Where the channels of a feature map are. In: what a module put out for square images. Out: NCHW, NHWC, or no answer.

torch does not say it, and a transposed map gives a loss that is wrong and finite. So an answer needs two witnesses: the
shape, and the stage's number of channels or the layers beside it.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_CHANNELS = {"NCHW": 1, "NHWC": 3}
_SIDES = {"NCHW": (2, 3), "NHWC": (1, 2)}


def stages_of(model: nn.Module) -> list[dict[str, Any]]:
    """timm's feature_info; empty for a module that has none. Some of timm's blocks have a method of that name."""
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    return info if isinstance(info, list) else []


def owner_of(model: nn.Module, path: str) -> str:
    """The path of the nearest model around a module that has stages, such as a timm model; "" is the whole."""
    while path and not stages_of(model.get_submodule(path)):
        path = path.rpartition(".")[0]
    return path


def own_layout(module: nn.Module) -> str | None:
    """That of a layer which has one by its type: what torch and timm call Conv2d, LayerNorm2d, ... is NCHW."""
    names = " ".join(base.__name__ for base in type(module).mro())
    if isinstance(module, (nn.GroupNorm, nn.SyncBatchNorm)) or re.search(r"(Conv|Norm[A-Za-z]*|Pool)2d", names):
        return "NCHW"
    return "NHWC" if isinstance(module, (nn.Linear, nn.LayerNorm, nn.RMSNorm)) else None


def layout_of(model: nn.Module, path: str, shape: torch.Size, layers: Mapping[str, str | None]) -> str | None:
    """NCHW or NHWC of the 4-D output of a module; None where it is no map, or nothing tells.

    layers: by path, the layout of those that were called and have one by their type; None where they put out no map.
    """
    owner_path = owner_of(model, path)
    owner = model.get_submodule(owner_path)
    stage = next((one for one in stages_of(owner) if f"{owner_path}.{one['module']}".removeprefix(".") == path), None)
    # Square images have square maps: heads x tokens x channels, say, is none.
    possible = {layout for layout, (one, other) in _SIDES.items() if shape[one] == shape[other]}
    if stage is not None and stage.get("num_chs") in (shape[1], shape[3]):
        said = {layout for layout, axis in _CHANNELS.items() if shape[axis] == stage["num_chs"]}
    elif hasattr(owner, "num_prefix_tokens"):
        said = {layers.get(path)} & {"NCHW"}  # of tokens: heads of attention are 4-D, too, and no map
    else:
        said = _said_around(path, layers)
    if len(found := possible & said) > 1:  # as many channels as pixels a side
        found &= {getattr(owner, "output_fmt", "NCHW" if stage else None)}
    return found.pop() if found else None


def _said_around(path: str, layers: Mapping[str, str | None]) -> set[str | None]:
    """The layouts in the module itself, or in the nearest one around it that holds layers with one by their type."""
    while True:
        inside = {layout for other, layout in layers.items() if not path or f"{other}.".startswith(f"{path}.")}
        if inside or not path:
            return inside
        path = path.rpartition(".")[0]
