"""Classify images with the model beside this file. Needs only numpy and onnxruntime.

python run.py                    the ten golden images, against the outputs that were recorded for them
python run.py IMAGES.npy [MODEL] uint8 RGB images [N, H, W, 3]; MODEL: a file of 1/
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
about = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))


def classify(images: np.ndarray, model: str) -> np.ndarray:
    """uint8 [N, H, W, 3] -> logits [N, classes]."""
    session = onnxruntime.InferenceSession(str(HERE / "1" / model), providers=["CPUExecutionProvider"])
    pixels = images.astype(np.float32) / np.float32(255)
    pixels = (pixels - np.array(about["mean"], np.float32)) / np.array(about["std"], np.float32)
    inputs = {"input": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))}
    return np.asarray(session.run(["logits"], inputs)[0])


if __name__ == "__main__":
    golden = np.load(HERE / "golden.npz")
    images = np.load(sys.argv[1]) if len(sys.argv) > 1 else golden["images"]
    model = sys.argv[2] if len(sys.argv) > 2 else about["default_model"]
    logits = classify(images, model)
    for row in logits:
        print(about["class_names"][int(row.argmax())])
    if len(sys.argv) == 1:
        print("largest difference from the recorded logits:", float(np.abs(logits - golden[model]).max()))
