"""A bundle: all that a deployer needs in one folder or zip, which proves on the target that it still works.

The folder is also a model folder for Triton Inference Server: config.pbtxt, and the ONNX files in version folder 1.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from compress.system.errors import GateError, InputError
from compress.system.files import replacing, sha256_file
from export.onnx.file import get_metadata
from export.runtimes import OrtRuntime

SCHEMA_VERSION = 1
GOLDEN_IMAGES = 10
# Allowed difference as a share of the largest logit. INT8 differs between CPUs with and without 8-bit dot products.
TOLERANCES = {"fp32": 1e-3, "fp16": 2e-2, "int8": 1e-1}


def make_bundle(
    target: Path,
    models: Sequence[Path],
    *,
    images: np.ndarray,
    class_names: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    card: str = "",
    threads: int | None = None,
) -> Path:
    """Write the bundle to `target`, a folder, or a zip where it ends in .zip.

    `models`: ONNX files with input "input" and output "logits", the first is the default one. `images`: uint8
    [N, H, W, 3] of which the first ten become golden inputs. `card`: Markdown that goes into the model card.
    Raises InputError where `target` exists as a folder that holds something.
    """
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target} already holds something", "Give another --out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as staging:
        folder = Path(staging) / "bundle"
        (folder / "1").mkdir(parents=True)
        golden: dict[str, np.ndarray] = {"images": images[:GOLDEN_IMAGES]}
        for model in models:
            shutil.copyfile(model, folder / "1" / model.name)
            golden[model.name] = OrtRuntime(model, mean, std, threads=threads)(golden["images"])
        np.savez(folder / "golden.npz", allow_pickle=False, **golden)
        (folder / "classes.txt").write_text("\n".join(class_names) + "\n", encoding="utf-8")
        shutil.copyfile(Path(__file__).with_name("bundle_runner.py"), folder / "run.py")
        side, channels, classes = images.shape[1], images.shape[3], len(class_names)
        (folder / "config.pbtxt").write_text(_triton_config(models[0].name, channels, side, classes), encoding="utf-8")
        (folder / "README.md").write_text(_card(models, class_names, side, card), encoding="utf-8")
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "default_model": models[0].name,
            "models": {model.name: {"precision": _precision(model)} for model in models},
            "class_names": list(class_names),
            "mean": list(mean),
            "std": list(std),
            "files": {name: sha256_file(folder / name) for name in _files(folder)},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if target.suffix == ".zip":
            with replacing(target) as temporary:
                _zip(folder, temporary)
        else:
            folder.replace(target)
    return target


def verify_bundle(path: Path, *, threads: int | None = None) -> dict[str, float]:
    """Replay the golden images with every model; returns each one's largest difference as a share of its largest logit.

    Raises InputError where the bundle is not whole or was altered, GateError where a model answers otherwise here.
    """
    with _opened(path) as folder:
        manifest = _checked_manifest(folder, path)
        try:
            with np.load(folder / "golden.npz", allow_pickle=False) as archive:
                golden = {name: archive[name] for name in ("images", *manifest["models"])}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"golden.npz of {path} is not whole: {error}", "Get the bundle anew") from error
        measured: dict[str, float] = {}
        for name, about in manifest["models"].items():
            runtime = OrtRuntime(folder / "1" / name, manifest["mean"], manifest["std"], threads=threads)
            expected, actual = golden[name], runtime(golden["images"])
            allowed = TOLERANCES[about["precision"]]
            scale = float(np.abs(expected).max()) or 1.0
            measured[name] = float(np.abs(actual - expected).max()) / scale
            if not measured[name] <= allowed:
                raise GateError(
                    f"{name} differs by {measured[name]:.3g} of its largest logit from what was recorded, "
                    f"{allowed:.3g} allowed",
                    "This machine's onnxruntime computes another result; try another version of it",
                )
    return measured


def _precision(model: Path) -> str:
    return next((name for name in ("fp16", "int8") if f".{name}." in model.name), "fp32")


def _files(folder: Path) -> list[str]:
    """Every file but the manifest, as POSIX paths relative to the folder, sorted."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != "manifest.json")


def _zip(folder: Path, target: Path) -> None:
    """The same bytes for the same files: fixed order, dates and permissions."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ["manifest.json", *_files(folder)]:
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


class _Model(BaseModel):
    precision: Literal["fp32", "fp16", "int8"]


class _Manifest(BaseModel):
    """What verify takes from a bundle's manifest."""

    files: dict[str, str]
    models: Annotated[dict[str, _Model], Field(min_length=1)]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


def _checked_manifest(folder: Path, path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        content = _Manifest.model_validate(manifest)
        listed, known = content.files, {f"1/{name}" for name in content.models}
    except (OSError, ValueError) as error:  # pydantic's are ValueErrors
        raise InputError(f"the manifest of {path} is missing or damaged", "Get the bundle anew") from error
    present = set(_files(folder))
    if missing := sorted((set(listed) | known) - present):
        raise InputError(f"{path} lacks {missing[0]}", "Get the bundle anew")
    if added := sorted(present - set(listed)):
        raise InputError(f"{path} holds {added[0]}, which its manifest does not list", "Get the bundle anew")
    for name, expected in listed.items():
        if sha256_file(folder / name) != expected:
            raise InputError(f"{name} in {path} was altered", "Get the bundle anew")
    return manifest


def _triton_config(model: str, channels: int, side: int, classes: int) -> str:
    return f"""platform: "onnxruntime_onnx"
default_model_filename: "{model}"
max_batch_size: 64
input [
  {{ name: "input", data_type: TYPE_FP32, dims: [ {channels}, {side}, {side} ] }}
]
output [
  {{ name: "logits", data_type: TYPE_FP32, dims: [ {classes} ], label_filename: "classes.txt" }}
]
dynamic_batching {{ }}
"""


def _card(models: Sequence[Path], class_names: Sequence[str], side: int, card: str) -> str:
    metadata = get_metadata(models[0])
    origin = [f"- {key}: {value}" for key, value in metadata.items() if key != "class_names"]
    files = [f"- `1/{model.name}`: {_precision(model).upper()}" for model in models]
    shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    lines = [
        "# Image classifier",
        "",
        f"{len(class_names)} classes ({shown}), {side} x {side} RGB images, values / 255, normalised by mean and std.",
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
