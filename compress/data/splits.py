"""The splits of a data set on the device, in one of two ways.

Resident: all pixels are there, which is the fastest for thumbnails. Streamed: the pictures to train on stay in their
files. The split to evaluate on is always resident.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from compress.data.augment import Images
from compress.data.dataset import Dataset
from compress.data.picture_files import PictureFiles, PixelPictures
from compress.data.stream import StreamedImages
from compress.system.errors import MachineError, is_out_of_memory


@dataclass(frozen=True)
class Splits:
    """The split to train on and the split to evaluate on."""

    train: Images | StreamedImages
    evaluation: Images


def on_device(dataset: Dataset, device: torch.device, *, processes: int = 1) -> Splits:
    """Both splits for the device. On a CPU resident pixels share the memory-mapped cache.

    Args:
        processes: of the training on this machine, which share its processors.

    Raises:
        MachineError: the device has not the memory for them.
    """
    mean, std = (torch.tensor(values, device=device) for values in (dataset.mean, dataset.std))

    def resident(pixels: NDArray[np.uint8], labels: NDArray[np.int64], unlabeled: int = 0) -> Images:
        try:
            moved = torch.from_numpy(pixels).to(device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            what = f"{len(pixels):,} pictures of {dataset.image_size} pixels take {pixels.nbytes / 1e9:,.1f} GB"
            hint = f"Set {'' if dataset.streamed else 'data.loader: stream, or '}a smaller data.image_size."
            raise MachineError(f"{what}, for which the {device.type} device has not the memory", hint) from error
        return Images(moved, torch.from_numpy(labels).to(device), mean, std, unlabeled)

    evaluation = resident(dataset.eval_images, dataset.eval_labels)
    pixels = dataset.train_images
    if not isinstance(pixels, PictureFiles):
        if not dataset.streamed:
            return Splits(resident(pixels, dataset.train_labels, dataset.unlabeled), evaluation)
        pixels = PixelPictures(pixels, replace(dataset.square, crop_pct=1.0))
    labels = torch.from_numpy(dataset.train_labels).to(device)
    ahead = device.type == "cuda"
    streamed = StreamedImages(pixels, labels, mean, std, dataset.unlabeled, ahead=ahead, processes=processes)
    return Splits(streamed, evaluation)
