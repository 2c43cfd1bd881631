"""Classify pictures with the model beside this file. Needs only numpy, Pillow and onnxruntime.

python run.py                      the golden pictures, against the answers that were recorded for them
python run.py PICTURE... [MODEL]   JPEG, PNG, ... or .npy with uint8 RGB [N, H, W, 3]; MODEL: a file of 1/

A picture may have any size: preprocess.onnx makes of it what the models take.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from rgb import rgb, upright  # type: ignore  # noqa: E402  (the file beside this one)

about = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def read(path: Path) -> np.ndarray:
    """A file as uint8 [N, H, W, 3]."""
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    with Image.open(path) as image:
        return np.asarray(rgb(upright(image)), dtype=np.uint8)[None]


def classify(batches: list[np.ndarray], model: str) -> np.ndarray:
    """Batches, each uint8 [N, H, W, 3], to logits [sum of N, classes]; probabilities where the model takes pixels."""
    front, back = session(HERE / "preprocess.onnx"), session(HERE / "1" / model)
    if about["models"][model]["input"] == "pixels":
        return np.concatenate([np.asarray(back.run(None, {"pixels": pixels})[0]) for pixels in batches])
    inputs = [front.run(None, {"pixels": pixels})[0] for pixels in batches]
    return np.concatenate([np.asarray(back.run(None, {"input": images})[0]) for images in inputs])


if __name__ == "__main__":
    models = [argument for argument in sys.argv[1:] if argument in about["models"]]
    paths = [Path(argument) for argument in sys.argv[1:] if argument not in models]
    model = models[0] if models else about["default_model"]
    answers = classify([read(path) for path in paths or [HERE / name for name in about["golden"]]], model)
    for row in answers:
        print(about["class_names"][int(row.argmax())])
    if not paths:
        difference = np.abs(answers - np.load(HERE / "golden.npz")[model]).max()
        print("largest difference from the recorded answers:", float(difference))
