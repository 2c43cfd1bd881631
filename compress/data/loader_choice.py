"""Which loader `data.loader: auto` stands for.

In: a recipe's data section and the device. Out: resident or stream.
"""

from typing import Literal

import psutil
import torch

from compress.data.sources import LAYOUTS, data_folder
from compress.recipe import Data
from compress.system.errors import UsageError

_SHARE = 0.5  # of the free memory that the squares may take


def choose_loader(settings: Data, device: torch.device) -> Literal["resident", "stream"]:
    """The loader of a data set.

    Changes of single pictures need the stream. The published sets are else resident: they are thumbnails, whose squares
    are all there is to see. Pictures of one's own are streamed where random resized crops would miss what the square
    has thrown away, and where their squares take too much memory.

    Raises:
        UsageError: the augmentation is not for the loader.
        InputError: the data set is missing.
        MachineError: the Hub, where it is, cannot be reached.
    """
    if settings.loader == "resident":
        for name in settings.augment.per_picture:
            raise UsageError(f"data.augment.{name} needs data.loader: stream", "It changes pictures one by one.")
    if settings.loader != "auto":
        return settings.loader
    if settings.augment.per_picture:
        return "stream"
    layout = LAYOUTS[settings.name]
    if layout.image_size or not layout.in_files:
        return "resident"
    if settings.augment.scale < 1:
        return "stream"
    assert settings.image_size is not None
    count = len(layout.read(data_folder(settings), settings).train.labels)
    return "stream" if count * settings.image_size**2 * 3 > _SHARE * free_memory(device) else "resident"


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU, or that this machine can give without swapping."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
