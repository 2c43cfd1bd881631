"""Images and labels.

In: a recipe's data section. Out: uint8 arrays with labels, and augmented batches. Decoded images are kept in a cache,
which is checked against its source.
"""

from compress.data.augment import Images, resolve_augment
from compress.data.dataset import Dataset, load_data
from compress.data.splits import Splits, on_device
from compress.data.stream import StreamedImages

__all__ = ["Dataset", "Images", "Splits", "StreamedImages", "load_data", "on_device", "resolve_augment"]
