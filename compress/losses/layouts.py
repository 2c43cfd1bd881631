"""Finds where the channels of a feature map are. In: the output of a module for square images. Out: NCHW, NHWC or None.

torch does not record the layout, and a transposed map gives a loss that is finite but wrong. So an answer needs two
independent signs: the shape, and either the stage's number of channels or the layers nearby.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_CHANNELS = {"NCHW": 1, "NHWC": 3}
_SIDES = {"NCHW": (2, 3), "NHWC": (1, 2)}


def stages_of(model: nn.Module) -> list[dict[str, Any]]:
    """timm's `feature_info`, one dictionary for each stage, or [] for a module that has none.

    Some of timm's blocks have a method of that name, which does not count.
    """
    info = getattr(model, "feature_info", None)
    info = getattr(info, "info", info)
    return info if isinstance(info, list) else []


def owner_of(model: nn.Module, path: str) -> str:
    """The path of the nearest module around `path` that has stages, such as a timm model. "" is the whole model."""
    while path and not stages_of(model.get_submodule(path)):
        path = path.rpartition(".")[0]
    return path


def own_layout(module: nn.Module) -> str | None:
    """The layout that the type of a layer fixes, or None.

    Layers that torch and timm name Conv2d, LayerNorm2d and the like are NCHW. Linear and LayerNorm are NHWC.
    """
    names = " ".join(base.__name__ for base in type(module).mro())
    if isinstance(module, (nn.GroupNorm, nn.SyncBatchNorm)) or re.search(r"(Conv|Norm[A-Za-z]*|Pool)2d", names):
        return "NCHW"
    return "NHWC" if isinstance(module, (nn.Linear, nn.LayerNorm, nn.RMSNorm)) else None


def layout_of(model: nn.Module, path: str, shape: torch.Size, layers: Mapping[str, str | None]) -> str | None:
    """The layout of a module's 4-D output.

    Args:
        path: the module's name in `model`.
        shape: of the output, 4-D.
        layers: by path, the layout of each layer that was called and whose type fixes one. None for a layer whose
            output is no map.

    Returns:
        NCHW or NHWC; None where the output is no map or the layout cannot be told.
    """
    owner_path = owner_of(model, path)
    owner = model.get_submodule(owner_path)
    stage = next((one for one in stages_of(owner) if f"{owner_path}.{one['module']}".removeprefix(".") == path), None)
    # Square images have square maps. An output of heads x tokens x channels, for example, is not one.
    possible = {layout for layout, (one, other) in _SIDES.items() if shape[one] == shape[other]}
    if stage is not None and stage.get("num_chs") in (shape[1], shape[3]):
        said = {layout for layout, axis in _CHANNELS.items() if shape[axis] == stage["num_chs"]}
    elif hasattr(owner, "num_prefix_tokens"):
        said = {layers.get(path)} & {"NCHW"}  # attention heads are 4-D too, but they are no map
    else:
        said = _said_around(path, layers)
    if len(found := possible & said) > 1:  # channels and pixels are equal in number
        found &= {getattr(owner, "output_fmt", "NCHW" if stage else None)}
    return found.pop() if found else None


def _said_around(path: str, layers: Mapping[str, str | None]) -> set[str | None]:
    """The layouts of the layers in the module, or in the nearest module around it that has such layers."""
    while True:
        inside = {layout for other, layout in layers.items() if not path or f"{other}.".startswith(f"{path}.")}
        if inside or not path:
            return inside
        path = path.rpartition(".")[0]
