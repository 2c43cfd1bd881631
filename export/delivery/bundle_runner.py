"""Classify pictures with the model beside this file. Needs numpy and the runtime of the model: onnxruntime or openvino.

python run.py [MODEL]              the golden pictures, against the answers that were recorded for them
python run.py PICTURE... [MODEL]   JPEG, PNG, ... or .npy with uint8 RGB [N, H, W, 3]; MODEL: one of manifest.json

A picture may have any size: preprocess.onnx makes of it what the models take. Pictures but .npy need Pillow, too.
Exit status 1: a file is missing or altered, or the golden pictures get other classes or probabilities than recorded.
"""

import functools
import hashlib
import io
import json
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

HERE = Path(__file__).parent
Run = Callable[[np.ndarray], np.ndarray]
_MODULES, _PACKAGES = {"ort": "onnxruntime"}, {"PIL": "pillow"}


class BundleError(ValueError):
    """The bundle is not as it was made, answers otherwise here, or cannot run what was asked."""


@functools.cache
def about() -> dict[str, Any]:
    """manifest.json, which has a hash of itself and of every file."""
    try:
        found = json.loads((HERE / "manifest.json").read_text(encoding="utf-8"))
        rest = {key: value for key, value in found.items() if key != "sha256"}
        own = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        fits, there = own == found["sha256"], found["default_model"] in found["models"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"manifest.json cannot be read: {error}") from error
    if not fits:
        raise BundleError("manifest.json was altered: its hash differs")
    if not there:
        raise BundleError("manifest.json names a default model that is not there")
    return found


@functools.cache
def checked(name: str) -> Path:
    """A file of the bundle that has the hash of the manifest."""
    try:
        digest = hashlib.sha256((HERE / name).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{name} of the bundle cannot be read: {error.strerror}") from error
    if digest != about()["files"].get(name):
        raise BundleError(f"{name} of the bundle was altered: its hash is not that of manifest.json")
    return HERE / name


def in_onnxruntime(path: Path, options: dict[str, str]) -> Run:
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    for name, value in options.items():
        if "." in name:
            chosen.add_session_config_entry(name, value)
        else:
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
    path, module = checked(f"{name}.py"), ModuleType(name)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def read(path: Path) -> np.ndarray:
    """A file as uint8 [N, H, W, 3]."""
    if path.suffix.lower() == ".npy":
        pixels = np.load(path, allow_pickle=False)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
            raise ValueError(f"{path} holds {pixels.dtype} {list(pixels.shape)}, not uint8 [N, H, W, 3]")
        return pixels
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
    chosen = about()["models"][model]
    path, front, options = checked(f"1/{chosen['file'] or model}"), checked("preprocess.onnx"), chosen["options"]
    if path.suffix == ".xml":
        checked(f"1/{path.stem}.bin")
    try:
        if chosen["runtime"] == "openvino":
            back = in_openvino(path, options)
            prepare = in_openvino(front, {"INFERENCE_PRECISION_HINT": "f32"}, fixed=False)
        else:
            back, prepare = in_onnxruntime(path, options), in_onnxruntime(front, {})
        takes_pixels = chosen["input"] == "pixels"
        return np.concatenate([back(pixels if takes_pixels else prepare(pixels)) for pixels in batches])
    except ImportError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise BundleError(f"{model} does not run in {chosen['runtime']}: {lines[-1]}") from error


def difference(answers: np.ndarray, model: str) -> float:
    """The largest of a probability from what was recorded. Raises BundleError where it is not allowed."""
    chosen = about()["models"][model]
    path = checked("golden.npz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            recorded = archive[model]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise BundleError(f"golden.npz of the bundle holds no answers of {model}: {error}") from error
    if recorded.shape != answers.shape:
        raise BundleError(f"{model} gives answers of shape {answers.shape}, and {recorded.shape} were recorded")
    expected, actual = (_probabilities(values, chosen["input"]) for values in (recorded, answers))
    allowed, ordered = chosen["tolerance"], np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > allowed if ordered.shape[1] > 1 else np.ones(len(ordered), dtype=bool)
    changed = int((clear & (expected.argmax(1) != actual.argmax(1))).sum())
    largest = float(np.abs(actual - expected).max())
    if changed or not largest <= allowed:
        raise BundleError(
            f"{model}: {changed} of {len(expected)} golden pictures get another class than was recorded, and "
            f"probabilities differ by up to {largest:.3g}, {allowed:.3g} allowed"
        )
    return largest


def _probabilities(values: np.ndarray, taken: str) -> np.ndarray:
    if taken == "pixels":
        return values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # where they are not finite, neither is the difference
        powers = np.exp(values.astype(np.float64) - values.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def main(arguments: list[str]) -> str | None:
    """Prints a class for each picture. Returns what is wrong, or None."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return None
    try:
        known = about()["models"]
        names = [argument for argument in arguments if argument in known]
        paths = [Path(argument) for argument in arguments if argument not in names]
        model = names[0] if names else about()["default_model"]
        lines = _answers(model, paths)
    except BundleError as error:
        return str(error)
    except (KeyError, TypeError, IndexError, ValueError) as error:
        return f"manifest.json does not fit this bundle: {error!r}"
    print(*lines, sep="\n")
    return None


def _answers(model: str, paths: list[Path]) -> list[str]:
    """A line for each picture; of the golden ones, another for their difference."""
    known = about()["models"]
    runtime = known[model]["runtime"]
    library = _MODULES.get(runtime, runtime)
    try:
        answers = classify([read(path) for path in paths or map(checked, about()["golden"])], model)
    except ModuleNotFoundError as error:
        others = [name for name, each in known.items() if each["runtime"] != runtime]
        without = others if error.name == library else []
        hint = f", or name a model of another runtime: {', '.join(without)}" if without else ""
        package = _PACKAGES.get(error.name or "", error.name)
        raise BundleError(f"{model} needs {error.name}: pip install {package}{hint}") from error
    except ImportError as error:
        raise BundleError(f"{model} needs {library}, which cannot be imported: {error}") from error
    except BundleError:
        raise
    except (OSError, ValueError) as error:
        raise BundleError(f"{error} (pictures, then one of {', '.join(known)})") from error
    lines = [str(about()["class_names"][int(row.argmax())]) for row in answers]
    if not paths:
        largest, allowed = difference(answers, model), known[model]["tolerance"]
        lines.append(f"largest difference of a probability from what was recorded ({allowed:g} allowed): {largest:.3g}")
    return lines


def _escape_what_the_console_lacks() -> None:
    """Class names may hold any sign, and a console may have few."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    _escape_what_the_console_lacks()
    sys.exit((wrong := main(sys.argv[1:])) and f"error: {wrong}")
