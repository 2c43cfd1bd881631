"""A bundle: all that a deployer needs in one folder or zip. It proves on the target that it still works.

The folder is also a model folder for Triton Inference Server: config.pbtxt, and the ONNX files in version folder 1.
"""

import logging
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import onnx

from compress.data import Dataset, rgb
from compress.system.errors import GateError, InputError
from compress.system.files import replacing, sha256_file
from compress.system.platform import processor
from export.delivery.bundle_texts import LIBRARIES, card_text, triton_config
from export.delivery.golden import ANSWERS, PREPROCESSING, answers, recorded_answers, write_pictures
from export.delivery.instructions import INSTRUCTIONS, lacking
from export.onnx import PIXELS_NAME, export_preprocessing
from export.openvino import session_options
from export.records import PRECISIONS, BundledModel, BundleManifest, Precision, RunPrecision

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_BY_USE = frozenset({"__pycache__", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})
# Allowed difference as a share of the largest answer. INT8 differs between CPUs with and without 8-bit dot products.
TOLERANCES: dict[RunPrecision, float] = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 5e-2, "int8": 1e-1}


@dataclass(frozen=True)
class Recommended:
    """What a benchmark recommends: a file in a runtime, and the machine on which it was the fastest.

    `name`: of the candidate. `path`: its ONNX file, or IR.
    """

    name: str
    path: Path
    about: BundledModel
    cpu: str
    cpu_flags: Sequence[str]


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
        entries = _entries(models, recommended)
        for model in {*models, *([recommended.path] if recommended else [])}:
            for each in [model, *([model.with_suffix(".bin")] if model.suffix == ".xml" else [])]:
                shutil.copyfile(each, folder / "1" / each.name)
        export_preprocessing(folder / PREPROCESSING, data.square, mean=data.mean, std=data.std)
        golden = write_pictures(folder, data)
        recorded = answers(folder, entries, golden, threads)
        np.savez(folder / ANSWERS, allow_pickle=False, **recorded)
        (folder / "classes.txt").write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("bundle_runner.py"), folder / "run.py")
        shutil.copyfile(rgb.__file__, folder / "rgb.py")
        default = next(iter(entries))
        (folder / "config.pbtxt").write_text(triton_config(default, entries[default], data), encoding="utf-8")
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
            files={name: sha256_file(folder / name) for name in _files(folder)},
        )
        manifest.write(folder / MANIFEST)
        if target.suffix == ".zip":
            with replacing(target) as temporary:
                _zip(folder, temporary)
        else:
            folder.replace(target)
    return target


def verify_bundle(path: Path, *, threads: int | None = None) -> dict[str, float]:
    """Replays the golden pictures with every model in its runtime, from their files: decoding, preprocessing, model.

    It warns where this CPU lacks instructions of the one that the bundle was measured on.

    Args:
        path: a bundle, as a folder or a zip.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        By model, its largest difference from what was recorded, as a share of its largest answer.

    Raises:
        InputError: the bundle is missing, not whole, or was altered.
        MachineError: a model needs OpenVINO, which is not installed.
        GateError: a model answers otherwise on this machine.
    """
    with _opened(path) as folder:
        manifest = _checked_manifest(folder, path)
        if warning := lacking(manifest, processor()):
            logger.warning(warning)
        recorded = recorded_answers(folder, manifest, path)
        found = answers(folder, manifest.models, manifest.golden, threads)
        measured: dict[str, float] = {}
        for name, about in manifest.models.items():
            expected, actual = recorded[name], found[name]
            allowed = TOLERANCES[about.precision]
            scale = float(np.abs(expected).max()) or 1.0
            measured[name] = float(np.abs(actual - expected).max()) / scale
            if not measured[name] <= allowed:
                raise GateError(
                    f"{name} differs by {measured[name]:.3g} of its largest answer from what was recorded, "
                    f"{allowed:.3g} allowed",
                    f"This machine's {LIBRARIES[about.runtime]} or Pillow computes another result; try other versions",
                )
    return measured


def _entries(models: Sequence[Path], recommended: Recommended | None) -> dict[str, BundledModel]:
    """The models of a bundle, the default one first."""
    first = {recommended.name: recommended.about} if recommended else {}
    rest = {model.name: _entry(model) for model in models if model.name not in first}
    return first | rest


def _entry(model: Path) -> BundledModel:
    if model.suffix == ".xml":
        return BundledModel(precision=_precision(model), runtime="openvino", options=session_options(None, "f32"))
    return BundledModel(precision=_precision(model), input=_input(model))


def _precision(model: Path) -> Precision:
    for precision in PRECISIONS:
        if f".{precision}." in model.name:
            return precision
    return "fp32"


def _input(model: Path) -> Literal["input", "pixels"]:
    return "pixels" if onnx.load(model).graph.input[0].name == PIXELS_NAME else "input"


def _files(folder: Path) -> list[str]:
    """Every file but the manifest, as POSIX paths relative to the folder, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.as_posix() != MANIFEST)


def _leaves_by_use(name: str) -> bool:
    """Whether Python or a file manager leaves such a file in a folder that is used. None of them is ever run."""
    path = PurePosixPath(name)
    return not _BY_USE.isdisjoint(path.parts) or path.name.startswith("._")


def _zip(folder: Path, target: Path) -> None:
    """The same bytes for the same files: fixed order, dates and permissions."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in [MANIFEST, *_files(folder)]:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (folder / name).read_bytes())


@contextmanager
def _opened(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield path
        return
    if not path.exists():
        raise InputError(f"there is no bundle {path}", "Make one: compress export --bundle")
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with zipfile.ZipFile(path) as archive:
                names = [PurePosixPath(name) for name in archive.namelist()]
                if any(name.is_absolute() or ".." in name.parts for name in names):
                    raise InputError(f"{path} has paths that leave its folder", "Do not trust it; get the bundle anew")
                archive.extractall(temporary)
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise InputError(f"{path} is not a whole zip file: {error}", "Get the bundle anew") from error
        yield Path(temporary)


def read_manifest(bundle: Path) -> BundleManifest:
    """What a bundle, a folder or a zip, says of itself. Its files are not looked at.

    Raises:
        InputError: the bundle or its manifest is missing or damaged.
    """
    try:
        if bundle.is_dir():
            return BundleManifest.read(bundle / MANIFEST)
        with zipfile.ZipFile(bundle) as archive:
            return BundleManifest.model_validate_json(archive.read(MANIFEST))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, InputError) as error:  # pydantic's are ValueErrors
        raise _damaged(bundle) from error


def _damaged(bundle: Path) -> InputError:
    return InputError(f"the manifest of {bundle} is missing or damaged", "Get the bundle anew")


def _checked_manifest(folder: Path, path: Path) -> BundleManifest:
    """The manifest of the bundle `path`, which was opened in `folder`. Its files are what the manifest says."""
    try:
        manifest = BundleManifest.read(folder / MANIFEST)
    except (OSError, InputError) as error:
        raise _damaged(path) from error
    listed, known = manifest.files, {manifest.path(name) for name in manifest.models}
    known |= {ANSWERS, PREPROCESSING, *manifest.golden}
    present = set(_files(folder))
    if missing := sorted((set(listed) | known) - present):
        raise InputError(f"{path} lacks {missing[0]}", "Get the bundle anew")
    if added := sorted(name for name in present - set(listed) if not _leaves_by_use(name)):
        raise InputError(f"{path} holds {added[0]}, which its manifest does not list", "Get the bundle anew")
    for name, expected in listed.items():
        if sha256_file(folder / name) != expected:
            raise InputError(f"{name} in {path} was altered", "Get the bundle anew")
    return manifest
