"""Class names and probabilities for image files, by the student of a run or by an exported ONNX file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from compress.data.decode import read_image
from compress.system import files
from compress.system.errors import InputError

Classifier = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 [N, H, W, 3] -> probabilities [N, C]."""


def predict(model: Path, images: list[Path], *, top: int = 3) -> list[dict[str, Any]]:
    """For each image its path and the `top` classes with their probabilities, most probable first.

    model is a finished run or an ONNX file that `compress export` wrote. Raises InputError for anything else, and for a
    file that is not an image.
    """
    names, size, classify = _from_onnx(model) if model.suffix == ".onnx" else _from_run(model)
    rows = []
    for path in images:
        (probabilities,) = classify(read_image(path, size)[None])
        best = np.argsort(-probabilities, kind="stable")[:top]
        classes = [{"class": names[c], "probability": round(float(probabilities[c]), 6)} for c in best]
        rows.append({"image": str(path), "classes": classes})
    return rows


def _from_run(path: Path) -> tuple[list[str], int, Classifier]:
    import torch

    from compress import models
    from compress.runs import load_student

    student = load_student(path)
    config = models.read_config(path / "student")
    cfg = config["pretrained_cfg"]
    mean, std = (np.asarray(cfg[key], dtype=np.float32) for key in ("mean", "std"))

    def classify(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = student(torch.from_numpy(_normalized(pixels, mean, std)))
        return softmax(logits.numpy(), axis=1)

    return list(config["label_names"]), cfg["input_size"][-1], classify


def _from_onnx(path: Path) -> tuple[list[str], int, Classifier]:
    import onnxruntime

    if not path.is_file():
        raise InputError(f"no ONNX file at {path}", "Write one with `compress export`.")
    _check_recorded(path)
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        meta = session.get_modelmeta().custom_metadata_map
        names, size = meta["class_names"].split("\n"), int(meta["image_size"])
        mean, std = (np.array([float(v) for v in meta[key].split(",")], dtype=np.float32) for key in ("mean", "std"))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not an ONNX file of `compress export` ({reason})") from error

    def classify(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        if session.get_inputs()[0].name == "pixels":  # normalisation and softmax are inside
            return np.asarray(session.run(["probabilities"], {"pixels": pixels})[0])
        logits = np.asarray(session.run(["logits"], {"input": _normalized(pixels, mean, std)})[0])
        return softmax(logits, axis=1)

    return names, size, classify


def _check_recorded(path: Path) -> None:
    """Raises InputError where the file lies beside an export's record that holds another hash for it."""
    for record in path.parent.glob("*export.json"):
        try:
            recorded = json.loads(record.read_text(encoding="utf-8"))["files"][path.name]["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another model's, or nothing that can be compared
        if files.sha256_file(path) != recorded:
            raise InputError(f"{path} was altered: its hash is not that in {record.name}", "Export it again.")


def _normalized(pixels: NDArray[np.uint8], mean: NDArray[np.float32], std: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [N, 3, H, W]."""
    return np.ascontiguousarray(((pixels / np.float32(255) - mean) / std).transpose(0, 3, 1, 2), dtype=np.float32)
