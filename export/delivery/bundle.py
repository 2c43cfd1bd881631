"""A bundle: all that a deployer needs in one folder or zip. It proves on the target that it still works.

The folder is also a model folder for Triton Inference Server: config.pbtxt, and the ONNX files in version folder 1.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress.data import Dataset, rgb
from compress.system.errors import InputError
from compress.system.files import replacing, sha256_file
from compress.system.platform import processor
from export import onnx, openvino
from export.delivery.bundle_texts import TRITON, TritonFacts, card_text, triton_config
from export.delivery.golden import ANSWERS, CLASSES, PREPROCESSING, TOLERANCES, answers, right, write_pictures
from export.delivery.instructions import INSTRUCTIONS
from export.delivery.manifest import MANIFEST, bundle_files, described, write_manifest
from export.onnx import PIXELS_NAME, export_preprocessing, load
from export.records import PRECISIONS, BundledModel, BundleManifest, Precision


@dataclass(frozen=True)
class Recommended:
    """What a benchmark recommends: a file in a runtime, and the machine on which it was the fastest.

    `name`: of the candidate. `path`: its ONNX file, or IR. `top1`: as it was measured there.
    """

    name: str
    path: Path
    about: BundledModel
    cpu: str
    cpu_flags: Sequence[str]
    top1: float | None = None


def make_bundle(
    target: Path,
    models: Sequence[Path],
    data: Dataset,
    *,
    recommended: Recommended | None = None,
    card: str = "",
    threads: int | None = None,
) -> Path:
    """Writes a bundle.

    Args:
        target: a folder, or a zip where it ends in .zip.
        models: ONNX files of an export, with input "input" or "pixels", and IRs. One ONNX file at least.
        recommended: the default model. Without it the first of `models` is that.
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
        entries = _entries(models, recommended, threads)
        for model in {*models, *([recommended.path] if recommended else [])}:
            for each in [model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])]:
                shutil.copyfile(each, folder / "1" / each.name)
        export_preprocessing(folder / PREPROCESSING, data.square, mean=data.mean, std=data.std)
        golden = write_pictures(folder, data)
        recorded = answers(folder, entries, golden, threads)
        entries = {
            name: about.model_copy(update={"golden_right": right(recorded[name], golden, data.class_names)})
            for name, about in entries.items()
        }
        np.savez(folder / ANSWERS, allow_pickle=False, **recorded)
        (folder / CLASSES).write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("bundle_runner.py"), folder / "run.py")
        shutil.copyfile(rgb.__file__, folder / "rgb.py")
        default = next(iter(entries))
        facts = TritonFacts(
            entries[default].file or default,
            entries[default].runtime,
            len(data.mean),
            data.square.size,
            len(data.class_names),
        )
        (folder / TRITON).write_text(triton_config(facts), encoding="utf-8")
        (folder / "README.md").write_text(card_text(models, entries, data, card), encoding="utf-8")
        cpu, flags = (recommended.cpu, recommended.cpu_flags) if recommended else processor()
        manifest = BundleManifest(
            default_model=default,
            models=entries,
            class_names=list(data.class_names),
            mean=list(data.mean),
            std=list(data.std),
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
            fit=data.fit,
            image_size=data.square.size,
            cpu=cpu,
            cpu_flags=[flag for flag in INSTRUCTIONS if flag in flags],
            golden=golden,
            eval_images=np.bincount(data.eval_labels, minlength=len(data.class_names)).tolist(),
            preprocessing_signature=described(folder / PREPROCESSING)[0],
            files={name: sha256_file(folder / name) for name in bundle_files(folder)},
        )
        write_manifest(folder, manifest)
        if target.suffix.lower() == ".zip":
            with replacing(target) as temporary:
                _zip(folder, temporary)
        else:
            folder.replace(target)
    return target


def _entries(models: Sequence[Path], recommended: Recommended | None, threads: int | None) -> dict[str, BundledModel]:
    """The models of a bundle, the default one first."""
    first = {recommended.name: _signed(recommended.about, recommended.path)} if recommended else {}
    rest = {model.name: _entry(model, threads) for model in models if model.name not in first}
    return first | rest


def _entry(model: Path, threads: int | None) -> BundledModel:
    if model.suffix == ".xml":
        options = openvino.session_options(threads, "f32")
        about = BundledModel(precision=_precision(model), runtime="openvino", options=options)
        return _signed(about, model)
    takes_pixels = load(model).graph.input[0].name == PIXELS_NAME
    about = BundledModel(
        precision=_precision(model),
        input="pixels" if takes_pixels else "input",
        options=onnx.session_options(threads),
    )
    return _signed(about, model)


def _signed(about: BundledModel, model: Path) -> BundledModel:
    return about.model_copy(update={"signature": described(model)[0], "tolerance": TOLERANCES[about.precision]})


def _precision(model: Path) -> Precision:
    for precision in PRECISIONS:
        if f".{precision}." in model.name:
            return precision
    return "fp32"


def _zip(folder: Path, target: Path) -> None:
    """The same bytes for the same files: fixed order, dates and permissions."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [MANIFEST, *bundle_files(folder)]:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())
