"""Images and labels.

In: a recipe's data section. Out: uint8 arrays with labels, and augmented batches. Decoded images are kept in a cache,
which is checked against its source.
"""

from compress.data.augment import Images, Splits, on_device, resolve_augment
from compress.data.dataset import Dataset, load_data

__all__ = ["Dataset", "Images", "Splits", "load_data", "on_device", "resolve_augment"]
