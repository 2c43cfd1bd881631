"""A part of CIFAR-100 or Tiny ImageNet as a folder of pictures, for studies that two CPU cores can finish.

    COMPRESS_DATA=FOLDER python tools/study/pictures.py fifth --every 5
    COMPRESS_DATA=FOLDER python tools/study/pictures.py tiny --data tinyimagenet --every 4

Out: FOLDER/train/CLASS/ with every fifth or fourth training image of each class, in the order of the data set's files,
and FOLDER/val/CLASS/ with all that it is evaluated on; PNG, as large as they were.
"""

from collections import Counter
from pathlib import Path

import click
from PIL import Image

from compress.cli.main import run_command
from compress.data import load_data
from compress.recipe import Data
from compress.system import files
from compress.system.errors import MachineError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--data", type=click.Choice(["cifar100", "tinyimagenet"]), default="cifar100", show_default=True)
@click.option("--every", type=click.IntRange(1), default=5, show_default=True, help="Of the images to train on.")
def main(folder: Path, data: str, every: int) -> None:
    """Write FOLDER, which must not exist."""
    if folder.exists():
        raise MachineError(f"{folder} exists", "Remove it, or choose another folder.")
    dataset = load_data(Data.model_validate({"name": data}))
    splits = {
        "train": (dataset.train_images, dataset.train_labels, every),
        "val": (dataset.eval_images, dataset.eval_labels, 1),
    }
    try:
        for split, (images, labels, step) in splits.items():
            seen: Counter[int] = Counter()
            for row, label in enumerate(labels.tolist()):
                if seen[label] % step == 0:
                    place = folder / split / dataset.class_names[label]
                    place.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(images[row]).save(place / f"{row:05}.png")
                seen[label] += 1
    except OSError as error:
        raise files.cannot_write(folder, error) from error


if __name__ == "__main__":
    run_command(main, "pictures.py", "The folder is not whole: remove it.")
