"""Small timm models with random weights, saved as timm publishes them."""

from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

SMALL = {"channels": [8, 8, 16, 16], "num_classes": 5}
"""Arguments of a small ResNet of five classes."""


def publish(name: str, folder: Path, *, seed: int = 0, args: dict[str, Any] | None = None, **cfg: Any) -> nn.Module:
    """Writes config.json and model.safetensors.

    Args:
        args: for timm.create_model, such as num_classes.
        cfg: of timm's pretrained_cfg. Default: a mean, std, interpolation and crop that no data set has.
    """
    torch.manual_seed(seed)
    model = timm.create_model(name, **(args or {}))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    own = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "interpolation": "bilinear", "crop_pct": 0.9, **cfg}
    args = {key: value for key, value in (args or {}).items() if key != "num_classes"}
    config = {"model_args": args} if args else {}
    timm.models.save_for_hf(model, str(folder), model_config=config, data_config=own, safe_serialization=True)
    return model
