"""How well the graph that takes pixels agrees with the evaluation pipeline, on photos at their own sizes.

In: a folder with a model's config.json and model.safetensors, and photos. Out: for each fit the photos that get the
same class, the largest difference of a probability, and the input values that differ. The evaluation is Pillow
(`compress.data.decode.Square`), numpy, and the model as an ONNX file. The graph is the same file with preprocessing
inside. Both get the same decoded pictures, and ONNX Runtime has one thread.

    python tools/bench/pixels_graph.py FOLDER PHOTOS --size 160
"""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np
import timm
from harness import json_option, run, show
from PIL import Image
from scipy.special import softmax

from compress.data.decode import Square, read_rgb
from compress.data.preprocessing import Fit, Preprocessing
from compress.data.walk import is_picture
from compress.models.folder import CONFIG, read_config
from compress.system.errors import InputError
from export.onnx import PIXELS_NAME, add_preprocessing, export_onnx, export_preprocessing, open_session
from export.runtimes import OrtRuntime


def compare(model: Path, seen: Preprocessing, size: int, photos: list[Path], folder: Path) -> dict[str, Any]:
    assert seen.mean is not None
    assert seen.std is not None
    square = Square.of(size, seen)
    graph, front = folder / "pixels.onnx", folder / "preprocess.onnx"
    add_preprocessing(model, graph, square, mean=seen.mean, std=seen.std)
    export_preprocessing(front, square, mean=[0, 0, 0], std=[1 / 255] * 3)
    evaluate, whole, values = (
        OrtRuntime(model, seen.mean, seen.std, threads=1),
        open_session(graph, 1),
        open_session(front, 1),
    )
    differences, same, other, most = [], 0, 0, 0
    for path in photos:
        picture = read_rgb(path)
        expected_pixels = square(Image.fromarray(picture))
        expected = softmax(evaluate(expected_pixels[None])[0].astype(np.float64))
        found = np.asarray(whole.run(None, {PIXELS_NAME: picture[None]})[0])[0]
        pixels = np.asarray(values.run(None, {PIXELS_NAME: picture[None]})[0])[0].transpose(1, 2, 0).round()
        steps = np.abs(pixels - expected_pixels)
        other, most = other + int((steps > 0).sum()), max(most, int(steps.max()))
        same += int(found.argmax() == expected.argmax())
        differences.append(float(np.abs(found - expected).max()))
    return {
        "fit": seen.fit,
        "photos": len(photos),
        "same_class": same,
        "largest_probability_diff": max(differences),
        "median_probability_diff": float(np.median(differences)),
        "values_that_differ": other / (len(photos) * size**2 * 3),
        "largest_step": most,
    }


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("photos", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--size", default=224, show_default=True, help="Pixels a side that the model takes.")
@json_option
def main(folder: Path, photos: Path, size: int, as_json: bool) -> None:
    """The graph beside the evaluation, with the model in FOLDER on all pictures below PHOTOS."""
    paths = sorted(path for path in photos.rglob("*") if is_picture(path.name))
    if not paths:
        raise InputError(f"no picture below {photos}")
    seen = Preprocessing.of(read_config(folder).get("pretrained_cfg") or {}, str(folder / CONFIG))
    model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "model.onnx"
        export_onnx(model, plain, image_size=size, metadata={})
        fits: tuple[Fit, ...] = get_args(Fit)
        rows = [compare(plain, replace(seen, fit=fit), size, paths, Path(scratch)) for fit in fits]
    lines = [
        f"{row['fit']:8} same class {row['same_class']} of {row['photos']}; probabilities differ by at most "
        f"{row['largest_probability_diff']:.2g}, median {row['median_probability_diff']:.2g}; "
        f"{row['values_that_differ']:.4%} of the values differ, by at most {row['largest_step']}"
        for row in rows
    ]
    show({"rows": rows}, lines, as_json=as_json)


if __name__ == "__main__":
    run(main)
