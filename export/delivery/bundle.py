"""A bundle: all that a deployer needs in one folder or zip. It proves on the target that it still works.

The folder is also a model folder for Triton Inference Server: config.pbtxt, and the ONNX files in version folder 1.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from compress.data import Dataset, rgb
from compress.data.preprocessing import Fit
from compress.system.errors import InputError
from compress.system.files import replacing, sha256_file
from export.delivery.golden import ANSWERS, PREPROCESSING, answers, write_pictures
from export.delivery.manifest import CLASSES, MANIFEST, bundle_files, signature, write_manifest
from export.onnx import PIXELS_NAME, export_preprocessing, get_metadata
from export.records import PRECISIONS, BundledModel, BundleManifest, Precision

_SIDES: dict[Fit, str] = {
    "crop": "Before, the shorter side is resized to {} pixels",
    "stretch": "Before, both sides are resized to {} pixels",
    "pad": "Before, the longer side is resized to {} pixels, the rest is filled with the mean colour",
}


def make_bundle(
    target: Path, models: Sequence[Path], data: Dataset, *, card: str = "", threads: int | None = None
) -> Path:
    """Writes a bundle.

    Args:
        target: a folder, or a zip where it ends in .zip.
        models: ONNX files of an export, with input "input" or "pixels". The first is the default one.
        data: pictures of its evaluation split become golden inputs, a few of each class.
        card: Markdown that goes into the model card.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        `target`.

    Raises:
        InputError: `target` is a folder that holds something, or a model does not run.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} already holds something", "Give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
        folder = Path(staging) / "bundle"
        (folder / "1").mkdir(parents=True)
        for model in models:
            shutil.copyfile(model, folder / "1" / model.name)
        export_preprocessing(folder / PREPROCESSING, data.square, mean=data.mean, std=data.std)
        golden = write_pictures(folder, data)
        recorded = answers(folder, [model.name for model in models], golden, threads)
        np.savez(folder / ANSWERS, allow_pickle=False, **recorded)
        (folder / CLASSES).write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("bundle_runner.py"), folder / "run.py")
        shutil.copyfile(rgb.__file__, folder / "rgb.py")
        (folder / "config.pbtxt").write_text(_triton_config(models[0].name, data), encoding="utf-8")
        (folder / "README.md").write_text(_card(models, data, card), encoding="utf-8")
        manifest = BundleManifest(
            default_model=models[0].name,
            models={model.name: _bundled(model) for model in models},
            class_names=list(data.class_names),
            mean=list(data.mean),
            std=list(data.std),
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            fit=data.fit,
            image_size=data.square.size,
            golden=golden,
            files={name: sha256_file(folder / name) for name in bundle_files(folder)},
        )
        write_manifest(folder, manifest)
        if target.suffix == ".zip":
            with replacing(target) as temporary:
                _zip(folder, temporary)
        else:
            folder.replace(target)
    return target


def _precision(model: Path) -> Precision:
    for precision in PRECISIONS:
        if f".{precision}." in model.name:
            return precision
    return "fp32"


def _bundled(model: Path) -> BundledModel:
    takes_pixels = onnx.load(model).graph.input[0].name == PIXELS_NAME
    return BundledModel(
        precision=_precision(model), input="pixels" if takes_pixels else "input", signature=signature(model)
    )


def _zip(folder: Path, target: Path) -> None:
    """The same bytes for the same files: fixed order, dates and permissions."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [MANIFEST, *bundle_files(folder)]:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())


def _triton_config(model: str, data: Dataset) -> str:
    _, height, width, channels = data.eval_images.shape
    return f"""platform: "onnxruntime_onnx"
default_model_filename: "{model}"
max_batch_size: 64
input [
  {{ name: "input", data_type: TYPE_FP32, dims: [ {channels}, {height}, {width} ] }}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: [ {len(data.class_names)} ], label_filename: "classes.txt" }}
]
dynamic_batching {{ }}
"""


def _card(models: Sequence[Path], data: Dataset, card: str) -> str:
    class_names, side = data.class_names, data.eval_images.shape[1]
    metadata = get_metadata(models[0])
    origin = [f"- {key}: {value}" for key, value in metadata.items() if key != "class_names"]
    files = [f"- `1/{model.name}`: {_precision(model).upper()}" for model in models]
    shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    lines = [
        "# Image classifier",
        "",
        f"{len(class_names)} classes ({shown}), {side} x {side} RGB images, values / 255, normalised by mean and std.",
        _SIDES[data.fit].format(data.square.target) + f" ({data.interpolation}, antialiased), and the centre is "
        "cropped. `preprocess.onnx` does all of it for pictures of any size.",
        "",
        *([card.strip(), ""] if card.strip() else []),
        "## Files",
        "",
        *files,
        "- `preprocess.onnx`: uint8 pixels [batch, height, width, 3] to the `input` of the models",
        "- `run.py`: a runner that needs numpy, Pillow and onnxruntime; alone it replays the golden pictures",
        "- `golden/`: pictures as the data set has them, with their metadata; `golden.npz`: what each model answered; "
        "`compress verify` compares",
        "- `config.pbtxt`: put this folder into a Triton model repository",
        "",
        "## Origin",
        "",
        *origin,
    ]
    return "\n".join(lines) + "\n"
