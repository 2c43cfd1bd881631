"""manifest.json of a bundle: written with its own hash, and read only where that fits."""

import zipfile
from pathlib import Path

import onnx

from compress.system.errors import InputError
from compress.system.hashes import sha256_json
from export import openvino
from export.onnx import load
from export.records import BundleManifest

MANIFEST = "manifest.json"
ANEW = "Get the bundle anew"


def bundle_files(folder: Path) -> list[str]:
    """Every file and link but the manifest, as POSIX paths relative to the folder, sorted."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.as_posix() for path in found if path.as_posix() != MANIFEST)


def described(path: Path) -> tuple[str, dict[str, str]]:
    """Of an ONNX file or an IR: its inputs and outputs with type and shape, and the metadata of its export.

    The first is as in "input: float[batch, 3, 8, 8] -> logits: float[batch, 2]".

    Raises:
        MachineError: it is an IR, and OpenVINO is not installed.
        InputError: it is missing or damaged.
    """
    if path.suffix == ".xml":
        return openvino.described(path)
    model = load(path)
    signature = " -> ".join(", ".join(map(_described, values)) for values in (model.graph.input, model.graph.output))
    return signature, {entry.key: entry.value for entry in model.metadata_props}


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
            if (bundle / "recipe.yaml").exists():
                raise InputError(f"{named or bundle} is a run", "Its bundle is in export/bundle.") from error
            raise InputError(f"{what} is of another version", "Use the compress that wrote it") from error
        raise InputError(f"{what} is missing or damaged", ANEW) from error
    if manifest.sha256 != _own_hash(manifest):
        raise InputError(f"{what} was altered: its hash differs", ANEW)
    if manifest.default_model not in manifest.models:
        raise InputError(f"{what} names a default model that is not there", ANEW)
    return manifest


def _own_hash(manifest: BundleManifest) -> str:
    return sha256_json({key: value for key, value in manifest.dump().items() if key != "sha256"})
