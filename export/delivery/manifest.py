"""manifest.json of a bundle: written with its own hash, and checked against the files beside it."""

import zipfile
from pathlib import Path, PurePosixPath

import onnx

from compress.system.errors import InputError
from compress.system.files import sha256_file
from compress.system.hashes import sha256_json
from export.delivery.golden import ANSWERS, PREPROCESSING
from export.onnx import load
from export.records import BundleManifest

MANIFEST, CLASSES = "manifest.json", "classes.txt"
_BY_USE = frozenset({"__pycache__", ".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})
_ANEW = "Get the bundle anew"


def bundle_files(folder: Path) -> list[str]:
    """Every file but the manifest, as POSIX paths relative to the folder, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.as_posix() != MANIFEST)


def signature(model: onnx.ModelProto) -> str:
    """Its inputs and outputs with type and shape, as in "input: float[batch, 3, 8, 8] -> logits: float[batch, 2]"."""
    graph = model.graph
    return " -> ".join(", ".join(map(_described, values)) for values in (graph.input, graph.output))


def _described(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return f"{value.name}: {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{shape}]"


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Writes it with the hash of all its other entries."""
    manifest.model_copy(update={"sha256": _own_hash(manifest)}).write(folder / MANIFEST)


def read_manifest(bundle: Path, *, named: Path | None = None) -> BundleManifest:
    """What a bundle, a folder or a zip, says of itself. Its files are not looked at.

    Args:
        named: what messages call it, where it was unpacked.

    Raises:
        InputError: the bundle or its manifest is missing, damaged, altered or of another version.
    """
    what = f"the manifest of {named or bundle}"
    try:
        if bundle.is_dir():
            manifest = BundleManifest.read(bundle / MANIFEST)
        else:
            with zipfile.ZipFile(bundle) as archive:
                manifest = BundleManifest.model_validate_json(archive.read(MANIFEST))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, InputError) as error:  # pydantic's are ValueErrors
        if "schema_version" in str(error):
            raise InputError(f"{what} is of another version", "Use the compress that wrote it") from error
        raise InputError(f"{what} is missing or damaged", _ANEW) from error
    if manifest.sha256 != _own_hash(manifest):
        raise InputError(f"{what} was altered: its hash differs", _ANEW)
    if manifest.default_model not in manifest.models:
        raise InputError(f"{what} names a default model that is not there", _ANEW)
    return manifest


def checked_manifest(folder: Path, path: Path) -> BundleManifest:
    """The manifest of the bundle `path`, which was opened in `folder`. Its files are what the manifest says.

    Raises:
        InputError: a file is missing, altered or not listed, or a model has other classes, inputs or outputs.
    """
    manifest = read_manifest(folder, named=path)
    listed, known = manifest.files, {manifest.path(name) for name in manifest.models}
    known |= {ANSWERS, CLASSES, PREPROCESSING, *manifest.golden}
    present = set(bundle_files(folder))
    if missing := sorted((set(listed) | known) - present):
        raise InputError(f"{path} lacks {missing[0]}", _ANEW)
    if added := sorted(name for name in present - set(listed) if not _leaves_by_use(name)):
        raise InputError(f"{path} holds {added[0]}, which its manifest does not list", _ANEW)
    for name, expected in listed.items():
        if sha256_file(folder / name) != expected:
            raise InputError(f"{name} in {path} was altered", _ANEW)
    if unlisted := sorted(known - set(listed)):
        raise InputError(f"the manifest of {path} has no hash of {unlisted[0]}", _ANEW)
    _same_classes((folder / CLASSES).read_text(encoding="utf-8").removesuffix("\n"), manifest, f"{CLASSES} in {path}")
    for name, about in manifest.models.items():
        if not manifest.path(name).endswith(".onnx"):  # an IR has its hash alone
            continue
        model = folder / manifest.path(name)
        proto = load(model)
        own = {entry.key: entry.value for entry in proto.metadata_props}
        _same_classes(own.get("class_names"), manifest, f"{name} in {path}")
        if (found := signature(proto)) != about.signature:
            raise InputError(f"{name} in {path} is {found}, and the manifest says {about.signature}", _ANEW)
    return manifest


def _same_classes(found: str | None, manifest: BundleManifest, what: str) -> None:
    if found is not None and found != "\n".join(manifest.class_names):
        raise InputError(f"{what} has other class names, or in another order, than the manifest", _ANEW)


def _own_hash(manifest: BundleManifest) -> str:
    return sha256_json({key: value for key, value in manifest.dump().items() if key != "sha256"})


def _leaves_by_use(name: str) -> bool:
    """Whether Python or a file manager leaves such a file in a folder that is used. None of them is ever run."""
    path = PurePosixPath(name)
    return not _BY_USE.isdisjoint(path.parts) or path.name.startswith("._")
