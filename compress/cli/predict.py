"""Classifies image files.

In: a finished run or an exported ONNX file, and images. Out: class names with probabilities.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from compress.data.decode import Square
from compress.data.preprocessing import Preprocessing
from compress.data.walk import LeftOut, pictures_below
from compress.system import files
from compress.system.errors import InputError, first_line
from export.folder import ExportFolder
from export.records import ExportRecord

logger = logging.getLogger(__name__)

Classifier = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 [N, H, W, 3] to probabilities float32 [N, C]."""


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
    names, square, classify = _from_onnx(model) if model.suffix == ".onnx" else _from_run(model)
    rows = []
    for path in _files(images):
        (probabilities,) = classify(square.read(path)[None])
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


def _from_run(path: Path) -> tuple[list[str], Square, Classifier]:
    import torch

    from compress import models
    from compress.runs import Run, load_student
    from export.runtimes import normalise

    student = load_student(path)
    config = models.read_config(Run(path).student)
    cfg = config["pretrained_cfg"]
    mean, std = cfg["mean"], cfg["std"]

    def classify(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = student(torch.from_numpy(normalise(pixels, mean, std)))
        return softmax(logits.numpy(), axis=1)

    seen = Preprocessing.of(cfg, str(path))
    square = Square(cfg["input_size"][-1], seen.interpolation, seen.crop_pct)
    return list(config["label_names"]), square, classify


def _from_onnx(path: Path) -> tuple[list[str], Square, Classifier]:
    from export.onnx import INPUT_NAME, OUTPUT_NAME, open_session
    from export.runtimes import normalise

    if not path.is_file():
        raise InputError(f"no ONNX file at {path}", "Write one with `compress export`.")
    _check_recorded(path)
    try:
        session = open_session(path)
        meta = session.get_modelmeta().custom_metadata_map
        names = meta["class_names"].split("\n")
        seen = Preprocessing.of({key: meta.get(key) for key in ("interpolation", "crop_pct")}, str(path))
        square = Square(int(meta["image_size"]), seen.interpolation, seen.crop_pct)
        mean, std = ([float(value) for value in meta[key].split(",")] for key in ("mean", "std"))
    except Exception as error:
        raise InputError(f"{path} is not an ONNX file of `compress export` ({first_line(error)})") from error

    def classify(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if session.get_inputs()[0].name == "pixels":  # normalisation and softmax are inside
            return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])
        logits = np.asarray(session.run([OUTPUT_NAME], {INPUT_NAME: normalise(pixels, mean, std)})[0])
        return softmax(logits, axis=1)

    return names, square, classify


def _check_recorded(path: Path) -> None:
    """Raises InputError where an export record beside the file has another hash for it."""
    for record in ExportFolder(path.parent).record_files:
        try:
            recorded = ExportRecord.read(record).files[path.name].sha256
        except (OSError, InputError, KeyError):
            continue  # the record of another model, or a damaged one
        if files.sha256_file(path) != recorded:
            raise InputError(f"{path} was altered: its hash is not that in {record.name}", "Export it again.")
