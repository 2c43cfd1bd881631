"""Images and labels.

In: a recipe's data section. Out: uint8 arrays with labels, and augmented batches. Decoded images are kept in a cache,
which is checked against its source.

A process that decodes pictures imports this package, and neither torch nor timm.
"""

from typing import TYPE_CHECKING

from compress.system.lazy import hand_on

if TYPE_CHECKING:
    from compress.data.augment import Images, resolve_augment
    from compress.data.dataset import Dataset, load_data
    from compress.data.splits import Splits, on_device
    from compress.data.stream import StreamedImages

__all__ = ["Dataset", "Images", "Splits", "StreamedImages", "load_data", "on_device", "resolve_augment"]

__getattr__ = hand_on(
    __name__,
    {
        "Images": "compress.data.augment",
        "resolve_augment": "compress.data.augment",
        "Dataset": "compress.data.dataset",
        "load_data": "compress.data.dataset",
        "Splits": "compress.data.splits",
        "on_device": "compress.data.splits",
        "StreamedImages": "compress.data.stream",
    },
)
