"""Class names and probabilities for image files, by the student of a run."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress import models
from compress.distillation import load_student
from compress.images import read_image


def predict(run: Path, images: list[Path], *, top: int = 3) -> list[dict[str, Any]]:
    """For each image its path and the `top` classes with their probabilities, most probable first.

    Raises InputError for a run that is not finished and for a file that is not an image.
    """
    student = load_student(run)
    config = models.read_config(run / "student")
    names, cfg = config["label_names"], config["pretrained_cfg"]
    size = cfg["input_size"][-1]
    pixels = torch.from_numpy(np.stack([read_image(path, size) for path in images]))
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    with torch.inference_mode():
        probabilities = student(((pixels / 255 - mean) / std).permute(0, 3, 1, 2)).softmax(dim=1)
    values, classes = probabilities.topk(min(top, len(names)), dim=1)
    return [
        {
            "image": str(path),
            "classes": [{"class": names[c], "probability": round(v, 6)} for c, v in zip(row_c, row_v, strict=True)],
        }
        for path, row_c, row_v in zip(images, classes.tolist(), values.tolist(), strict=True)
    ]
