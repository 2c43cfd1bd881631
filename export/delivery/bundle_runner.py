"""Classify pictures with the model beside this file. Needs numpy and the runtime of the model: onnxruntime or openvino.

python run.py                      the golden pictures, against the answers that were recorded for them
python run.py PICTURE... [MODEL]   JPEG, PNG, ... or .npy with uint8 RGB [N, H, W, 3]; MODEL: one of manifest.json

A picture may have any size: preprocess.onnx makes of it what the models take. Pictures but .npy need Pillow, too.
"""

import functools
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
about = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
Run = Callable[[np.ndarray], np.ndarray]
_MODULES, _PACKAGES = {"ort": "onnxruntime"}, {"PIL": "pillow"}


def in_onnxruntime(path: Path, options: dict[str, str]) -> Run:
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(chosen, name, int(value))
    session = onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {taken: inputs})[0])


@functools.cache
def _core() -> Any:
    """The one of this process: where two end in the order in which they began, OpenVINO breaks signals."""
    import openvino

    return openvino.Core()


def in_openvino(path: Path, options: dict[str, str], fixed: bool = True) -> Run:
    """fixed: the model is compiled for each shape of its input, which makes it faster."""
    core = _core()
    requests: dict[tuple[int, ...], Any] = {}

    def run(inputs: np.ndarray) -> np.ndarray:
        shape = inputs.shape if fixed else ()
        if shape not in requests:
            model = core.read_model(str(path))
            if fixed:
                model.reshape(list(shape))
            requests[shape] = core.compile_model(model, "CPU", options).create_infer_request()
        return requests[shape].infer([inputs])[0]

    return run


@functools.cache
def _module(name: str) -> ModuleType:
    """A file beside this one, always from its source: an `import` would run whatever bytecode lies in __pycache__."""
    path, module = HERE / f"{name}.py", ModuleType(name)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def read(path: Path) -> np.ndarray:
    """A file as uint8 [N, H, W, 3]."""
    if path.suffix.lower() == ".npy":
        return np.load(path, allow_pickle=False)
    from PIL import Image

    beside = _module("rgb")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return np.asarray(beside.rgb(beside.upright(image)), dtype=np.uint8)[None]
    except (OSError, ValueError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def classify(batches: list[np.ndarray], model: str) -> np.ndarray:
    """Batches, each uint8 [N, H, W, 3], to logits [sum of N, classes]; probabilities where the model takes pixels."""
    chosen = about["models"][model]
    path, front, options = HERE / "1" / (chosen["file"] or model), HERE / "preprocess.onnx", chosen["options"]
    if chosen["runtime"] == "openvino":
        back, prepare = in_openvino(path, options), in_openvino(front, {"INFERENCE_PRECISION_HINT": "f32"}, fixed=False)
    else:
        back, prepare = in_onnxruntime(path, options), in_onnxruntime(front, {})
    if chosen["input"] == "pixels":
        return np.concatenate([back(pixels) for pixels in batches])
    return np.concatenate([back(prepare(pixels)) for pixels in batches])


def main(arguments: list[str]) -> str | None:
    """Prints a class for each picture. Returns what is wrong, or None."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return None
    models = [argument for argument in arguments if argument in about["models"]]
    paths = [Path(argument) for argument in arguments if argument not in models]
    model = models[0] if models else about["default_model"]
    runtime = about["models"][model]["runtime"]
    try:
        answers = classify([read(path) for path in paths or [HERE / name for name in about["golden"]]], model)
    except ModuleNotFoundError as error:
        others = [name for name, each in about["models"].items() if each["runtime"] != runtime]
        without = others if error.name == _MODULES.get(runtime, runtime) else []
        hint = f", or name a model of another runtime: {', '.join(without)}" if without else ""
        return f"{model} needs {error.name}: pip install {_PACKAGES.get(error.name or '', error.name)}{hint}"
    except (OSError, ValueError) as error:
        return f"{error} (pictures, then one of {', '.join(about['models'])})"
    for row in answers:
        print(about["class_names"][int(row.argmax())])
    if not paths:
        difference = np.abs(answers - np.load(HERE / "golden.npz")[model]).max()
        print("largest difference from the recorded answers:", float(difference))
    return None


if __name__ == "__main__":
    sys.exit((wrong := main(sys.argv[1:])) and f"error: {wrong}")
