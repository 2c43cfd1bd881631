"""Whether a bundle is what its manifest says, before any of its models is opened.

In: the folder of a bundle. Out: its manifest, or an error that names what contradicts it.
"""

from pathlib import Path, PurePosixPath

from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.delivery.bytecode import is_compiled_from, source_of
from export.delivery.golden import ANSWERS, PREPROCESSING, TOLERANCES
from export.delivery.manifest import ANEW, CLASSES, bundle_files, read_manifest, signature
from export.onnx import load
from export.records import BundleManifest

_BY_USE = frozenset({".ipynb_checkpoints", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})


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
        raise InputError(f"{path} lacks {missing[0]}", ANEW)
    bytecode = sorted(name for name in present if name.endswith(".pyc"))
    if added := sorted(name for name in present - set(listed) - set(bytecode) if not _left_by_use(name)):
        raise InputError(f"{path} holds {added[0]}, which its manifest does not list", ANEW)
    for name, expected in listed.items():
        if sha256_file(folder / name) != expected:
            raise InputError(f"{name} in {path} was altered", ANEW)
    for name in bytecode:
        source = source_of(name)
        if source not in listed or not is_compiled_from(
            (folder / source).read_bytes(), name, (folder / name).read_bytes()
        ):
            raise InputError(
                f"{path} holds {name}, which none of its files compiles to", "Remove it: Python may run it"
            )
    if unlisted := sorted(known - set(listed)):
        raise InputError(f"the manifest of {path} has no hash of {unlisted[0]}", ANEW)
    _same_classes((folder / CLASSES).read_text(encoding="utf-8").removesuffix("\n"), manifest, f"{CLASSES} in {path}")
    for name, about in manifest.models.items():
        if not 0 < about.tolerance <= TOLERANCES[about.precision]:
            raise InputError(
                f"the manifest of {path} lets probabilities of {name} differ by {about.tolerance:g}, and "
                f"{TOLERANCES[about.precision]:g} is allowed for {about.precision}",
                ANEW,
            )
        if not manifest.path(name).endswith(".onnx"):  # an IR has its hash alone
            continue
        model = folder / manifest.path(name)
        proto = load(model)
        own = {entry.key: entry.value for entry in proto.metadata_props}
        _same_classes(own.get("class_names"), manifest, f"{name} in {path}")
        if (found := signature(proto)) != about.signature:
            raise InputError(f"{name} in {path} is {found}, and the manifest says {about.signature}", ANEW)
    return manifest


def _same_classes(found: str | None, manifest: BundleManifest, what: str) -> None:
    if found is not None and found != "\n".join(manifest.class_names):
        raise InputError(f"{what} has other class names, or in another order, than the manifest", ANEW)


def _left_by_use(name: str) -> bool:
    """Whether an editor or a file manager leaves such a file in a folder that is used. None of them is ever run."""
    path = PurePosixPath(name)
    return not _BY_USE.isdisjoint(path.parts) or path.name.startswith("._")
