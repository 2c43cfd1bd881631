"""A bundle: all that a deployer needs in one folder or zip. It proves on the target that it still works.

The folder is also a model folder for Triton Inference Server: config.pbtxt, and the ONNX files in version folder 1.
"""

import math
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np

from compress.data import Dataset
from compress.system.errors import GateError, InputError
from compress.system.files import replacing, sha256_file
from export.onnx import get_metadata
from export.records import PRECISIONS, BundledModel, BundleManifest, Precision
from export.runtimes import OrtRuntime

MANIFEST = "manifest.json"
GOLDEN_IMAGES = 10
_BY_USE = frozenset({"__pycache__", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})
# Allowed difference as a share of the largest logit. INT8 differs between CPUs with and without 8-bit dot products.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 1e-1}


def make_bundle(
    target: Path, models: Sequence[Path], data: Dataset, *, card: str = "", threads: int | None = None
) -> Path:
    """Writes a bundle.

    Args:
        target: a folder, or a zip where it ends in .zip.
        models: ONNX files with input "input" and output "logits". The first is the default one.
        data: its first ten evaluation images become golden inputs.
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
        golden: dict[str, np.ndarray] = {"images": data.eval_images[:GOLDEN_IMAGES]}
        for model in models:
            shutil.copyfile(model, folder / "1" / model.name)
            golden[model.name] = OrtRuntime(model, data.mean, data.std, threads=threads)(golden["images"])
        np.savez(folder / "golden.npz", allow_pickle=False, **golden)
        (folder / "classes.txt").write_text("\n".join(data.class_names) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("bundle_runner.py"), folder / "run.py")
        (folder / "config.pbtxt").write_text(_triton_config(models[0].name, data), encoding="utf-8")
        (folder / "README.md").write_text(_card(models, data, card), encoding="utf-8")
        manifest = BundleManifest(
            default_model=models[0].name,
            models={model.name: BundledModel(precision=_precision(model)) for model in models},
            class_names=list(data.class_names),
            mean=list(data.mean),
            std=list(data.std),
            interpolation=data.interpolation,
            crop_pct=data.crop_pct,
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
    """Replays the golden images with every model.

    Args:
        path: a bundle, as a folder or a zip.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        By model, its largest difference from what was recorded, as a share of its largest logit.

    Raises:
        InputError: the bundle is missing, not whole, or was altered.
        GateError: a model answers otherwise on this machine.
    """
    with _opened(path) as folder:
        manifest = _checked_manifest(folder, path)
        try:
            with np.load(folder / "golden.npz", allow_pickle=False) as archive:
                golden = {name: archive[name] for name in ("images", *manifest.models)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"golden.npz of {path} is not whole: {error}", "Get the bundle anew") from error
        measured: dict[str, float] = {}
        for name, about in manifest.models.items():
            runtime = OrtRuntime(folder / "1" / name, manifest.mean, manifest.std, threads=threads)
            expected, actual = golden[name], runtime(golden["images"])
            allowed = TOLERANCES[about.precision]
            scale = float(np.abs(expected).max()) or 1.0
            measured[name] = float(np.abs(actual - expected).max()) / scale
            if not measured[name] <= allowed:
                raise GateError(
                    f"{name} differs by {measured[name]:.3g} of its largest logit from what was recorded, "
                    f"{allowed:.3g} allowed",
                    "This machine's onnxruntime computes another result; try another version of it",
                )
    return measured


def _precision(model: Path) -> Precision:
    for precision in PRECISIONS:
        if f".{precision}." in model.name:
            return precision
    return "fp32"


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
    listed, known = manifest.files, {f"1/{name}" for name in manifest.models}
    present = set(_files(folder))
    if missing := sorted((set(listed) | known) - present):
        raise InputError(f"{path} lacks {missing[0]}", "Get the bundle anew")
    if added := sorted(name for name in present - set(listed) if not _leaves_by_use(name)):
        raise InputError(f"{path} holds {added[0]}, which its manifest does not list", "Get the bundle anew")
    for name, expected in listed.items():
        if sha256_file(folder / name) != expected:
            raise InputError(f"{name} in {path} was altered", "Get the bundle anew")
    return manifest


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
        f"Before, the shorter side is resized to {math.floor(side / data.crop_pct)} pixels ({data.interpolation}), and "
        "the centre is cropped.",
        "",
        *([card.strip(), ""] if card.strip() else []),
        "## Files",
        "",
        *files,
        "- `run.py`: a runner that needs numpy and onnxruntime; alone it replays the golden images",
        "- `golden.npz`: ten images and the logits each model gave for them; `compress verify` compares",
        "- `config.pbtxt`: put this folder into a Triton model repository",
        "",
        "## Origin",
        "",
        *origin,
    ]
    return "\n".join(lines) + "\n"
