"""The golden pictures of a bundle: real files of the evaluation split, and what each model answered for them.

In: a data set and the models. Out: the files below golden/, and golden.npz with the answers by model.
"""

import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from compress.data import Dataset
from compress.data.decode import read_rgb
from compress.data.originals import Picture, stratified
from compress.system.errors import InputError
from export.openvino import Execution, OpenVinoPictures
from export.records import BundledModel, BundleManifest, RunPrecision
from export.runtimes import PictureRuntime

ANSWERS, CLASSES = "golden.npz", "classes.txt"
LIBRARIES = {"ort": "onnxruntime", "openvino": "openvino"}
PREPROCESSING = "preprocess.onnx"
PER_CLASS, MOST = 3, 30
TOLERANCES: dict[RunPrecision, float] = {"fp32": 1e-3, "fp16": 1e-2, "bf16": 3e-2, "int8": 5e-2}
"""Of each probability. INT8 differs between CPUs with and without 8-bit dot products."""


def write_pictures(folder: Path, data: Dataset) -> dict[str, str]:
    """Copies pictures of every class into a bundle. Pixels that have no file become a PNG.

    Args:
        folder: of the bundle.
        data: up to three pictures of each class of its evaluation split are taken, at most thirty.

    Returns:
        The class of each, by its POSIX path in the bundle.
    """
    rows = stratified(data.eval_labels, per_class=PER_CLASS, most=MOST)
    (folder / "golden").mkdir()
    names = (
        _written(picture, folder / "golden", f"{number:02}")
        for number, picture in enumerate(data.originals.evaluation(rows))
    )
    return {f"golden/{name}": data.class_names[data.eval_labels[row]] for row, name in zip(rows, names, strict=True)}


def _written(picture: Picture, folder: Path, name: str) -> str:
    if isinstance(picture, Path):
        name += picture.suffix.lower()
        shutil.copyfile(picture, folder / name)
    else:
        name += ".png"
        Image.fromarray(picture).save(folder / name)
    return name


def answers(
    folder: Path, models: Mapping[str, BundledModel], golden: Iterable[str], threads: int | None
) -> dict[str, np.ndarray]:
    """What each model of the bundle answers for its golden pictures: float32 [N, C]. The files are decoded anew.

    Raises:
        MachineError: OpenVINO is the runtime of one of them and not installed.
        InputError: a file cannot be read, or a model does not run.
    """
    pictures = [read_rgb(folder / name) for name in golden]
    return {name: _opened(folder, name, about, threads)(pictures) for name, about in models.items()}


def _opened(folder: Path, name: str, about: BundledModel, threads: int | None) -> PictureRuntime | OpenVinoPictures:
    path, front = folder / "1" / (about.file or name), folder / PREPROCESSING
    if about.runtime == "ort":
        return PictureRuntime(path, front, threads=threads)
    execution = about.options.get("INFERENCE_PRECISION_HINT", "f32")
    return OpenVinoPictures(path, front, threads=threads, execution=cast(Execution, execution))


def right(answers: np.ndarray, golden: Mapping[str, str], class_names: Sequence[str]) -> int:
    """How many golden pictures get their class. `answers` [N, C] are in the order of `golden`."""
    return sum(class_names[row.argmax()] == name for row, name in zip(answers, golden.values(), strict=True))


def expected_pictures(eval_images: Sequence[int]) -> list[int]:
    """How many golden pictures there are of each class, of an evaluation split with so many images of each."""
    labels = np.repeat(np.arange(len(eval_images)), np.minimum(eval_images, PER_CLASS))
    return np.bincount(labels[stratified(labels, per_class=PER_CLASS, most=MOST)], minlength=len(eval_images)).tolist()


def recorded_answers(folder: Path, manifest: BundleManifest, path: Path) -> dict[str, np.ndarray]:
    """What golden.npz holds. Raises InputError where it is not whole; `path` names the bundle in the message."""
    try:
        with np.load(folder / ANSWERS, allow_pickle=False) as archive:
            recorded = {name: archive[name] for name in manifest.models}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{ANSWERS} of {path} is not whole: {error}", "Get the bundle anew") from error
    shape = len(manifest.golden), len(manifest.class_names)
    if wrong := [name for name, values in recorded.items() if values.shape != shape]:
        raise InputError(f"{ANSWERS} of {path} is not whole: {wrong[0]} has no answer for each", "Get the bundle anew")
    return recorded
