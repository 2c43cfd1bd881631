"""What timm publishes of small architectures: the weights, and their top-1 on ImageNet.

In: published.json, which says where each figure is from (tools/published_top1.py writes it). Out: a Published for each.
"""

import functools
import json
from pathlib import Path
from typing import Any

from compress.recipe import Section

FILE = Path(__file__).with_name("published.json")


class Published(Section):
    """Weights that timm publishes.

    Attributes:
        model: timm's name with the tag, as a recipe takes it.
        top1: on ImageNet's validation split, in percent.
        image_size: at which that was measured, in pixels a side.
        params_m: parameters with 1,000 classes, in millions.
        license: of the weights, as timm names it.
    """

    model: str
    top1: float
    image_size: int
    params_m: float
    license: str

    @property
    def architecture(self) -> str:
        """timm's name without the tag."""
        return self.model.split(".")[0]


@functools.cache
def _content() -> dict[str, Any]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def source() -> dict[str, str]:
    """Where the figures are from: repository, file, commit, date, and how they were chosen."""
    return dict(_content()["source"])


@functools.cache
def published_models() -> tuple[Published, ...]:
    """All figures, in the order of the file."""
    return tuple(Published.model_validate(entry) for entry in _content()["models"])


@functools.cache
def teachers() -> tuple[Published, ...]:
    """Models that may teach, from small to large."""
    return tuple(Published.model_validate(entry) for entry in _content()["teachers"])


def figure(model: str) -> Published | None:
    """The figure of a timm name. Without a tag it is that of the architecture. None where there is none."""
    return next((entry for entry in published_models() if model in (entry.model, entry.architecture)), None)
