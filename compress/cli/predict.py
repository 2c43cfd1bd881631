"""Classifies image files.

In: a finished run or an exported ONNX file, and images. Out: class names with probabilities.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from compress.data.decode import Square, read_rgb
from compress.data.preprocessing import CROP_MODES, Fit, Preprocessing
from compress.data.walk import LeftOut, pictures_below
from compress.system import files
from compress.system.errors import InputError, first_line
from export.folder import ExportFolder
from export.records import ExportRecord

logger = logging.getLogger(__name__)

Classifier = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps a picture, uint8 [H, W, 3] at its own size, to probabilities float32 [C]."""


def predict(model: Path, images: list[Path], *, top: int = 3) -> list[dict[str, Any]]:
    """The most probable classes of each image.

    Args:
        model: the folder of a finished run, or an ONNX file that `compress export` wrote.
        images: files that Pillow reads, and folders of such files.
        top: how many classes to return for each image.

    Returns:
        For each image its path and its classes with their probabilities, most probable first.

    Raises:
        InputError: `model` is neither of the two, its weights were altered, or a file is no image.
    """
    names, classify = _from_onnx(model) if model.suffix.lower() == ".onnx" else _from_run(model)
    rows = []
    for path in _files(images):
        probabilities = classify(read_rgb(path))
        best = np.argsort(-probabilities, kind="stable")[:top]
        classes = [{"class": names[c], "probability": round(float(probabilities[c]), 6)} for c in best]
        rows.append({"image": str(path), "classes": classes})
    return rows


def _files(images: list[Path]) -> list[Path]:
    """The files that were named, and the pictures in the folders that were named."""
    found: list[Path] = []
    for path in images:
        if path.is_dir():
            left_out = LeftOut()
            pictures = pictures_below(str(path), left_out)
            if left_out.counts:
                logger.warning(str(left_out))
            if not pictures:
                raise InputError(f"no picture in {path}")
            found += map(Path, pictures)
        elif path.exists() and not path.is_file():
            raise InputError(f"{path} is no regular file", "Name files or folders of pictures.")
        else:
            found.append(path)
    return found


def _from_run(path: Path) -> tuple[list[str], Classifier]:
    import torch

    from compress import models
    from compress.runs import Run, load_student
    from export.runtimes import normalise

    student = load_student(path)
    config = models.read_config(Run(path).student)
    cfg = config["pretrained_cfg"]
    mean, std = cfg["mean"], cfg["std"]
    square = Square.of(cfg["input_size"][-1], Preprocessing.of(cfg, str(path)))

    def classify(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = student(torch.from_numpy(normalise(square(Image.fromarray(picture))[None], mean, std)))
        return softmax(logits.numpy(), axis=1)[0]

    return list(config["label_names"]), classify


def _from_onnx(path: Path) -> tuple[list[str], Classifier]:
    from export.onnx import INPUT_NAME, OUTPUT_NAME, PIXELS_NAME, PROBABILITIES_NAME, open_session
    from export.runtimes import normalise

    if not path.is_file():
        raise InputError(f"no ONNX file at {path}", "Write one with `compress export`.")
    _check_recorded(path)
    try:
        session = open_session(path)
        meta = session.get_modelmeta().custom_metadata_map
        names = meta["class_names"].split("\n")
        mean, std = ([float(value) for value in meta[key].split(",")] for key in ("mean", "std"))
        cfg = {"mean": mean, "std": std, "crop_mode": CROP_MODES[cast(Fit, meta.get("fit", "crop"))]}
        cfg |= {key: meta.get(key) for key in ("interpolation", "crop_pct")}
        square = Square.of(int(meta["image_size"]), Preprocessing.of(cfg, str(path)))
    except Exception as error:
        raise InputError(f"{path} is not an ONNX file of `compress export` ({first_line(error)})") from error

    def classify(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        if session.get_inputs()[0].name == PIXELS_NAME:  # all of the preprocessing and softmax are inside
            return np.asarray(session.run([PROBABILITIES_NAME], {PIXELS_NAME: picture[None]})[0])[0]
        inputs = normalise(square(Image.fromarray(picture))[None], mean, std)
        return softmax(np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0]), axis=1)[0]

    return names, classify


def _check_recorded(path: Path) -> None:
    """Raises InputError where an export record beside the file has another hash for it."""
    for record in ExportFolder(path.parent).record_files:
        try:
            recorded = ExportRecord.read(record).files[path.name].sha256
        except (OSError, InputError, KeyError):
            continue  # the record of another model, or a damaged one
        if files.sha256_file(path) != recorded:
            raise InputError(f"{path} was altered: its hash is not that in {record.name}", "Export it again.")
