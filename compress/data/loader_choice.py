"""Which loader `data.loader: auto` stands for.

In: a recipe's data section and the device. Out: resident or stream.
"""

import os
from typing import Literal

import psutil
import torch

from compress.data.sources import LAYOUTS, locate
from compress.recipe import Data

_SHARE = 0.5  # of the free memory that the squares may take


def choose_loader(settings: Data, device: torch.device) -> Literal["resident", "stream"]:
    """The loader of a data set.

    The published sets are thumbnails, whose squares are all there is to see. Pictures of one's own are streamed where
    random resized crops would see what the square has thrown away, and where their squares take too much memory.

    Raises:
        InputError: the data set is missing.
    """
    if settings.loader != "auto":
        return settings.loader
    layout = LAYOUTS[settings.name]
    if layout.image_size or not layout.in_files:
        return "resident"
    if settings.augment.scale < 1:
        return "stream"
    size = settings.image_size or layout.image_size
    count = sum(len(names) for _, _, names in os.walk(locate(settings.name, settings.root) / "train"))
    return "stream" if count * size**2 * 3 > _SHARE * free_memory(device) else "resident"


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that this machine can give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
