"""Whether a bundle is what its manifest says, before any of its models is opened.

In: the folder of a bundle. Out: its manifest, or an error that names what contradicts it.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np

from compress.data.decode import Square
from compress.data.preprocessing import Interpolation
from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.delivery.bundle_texts import TRITON, TritonFacts
from export.delivery.bytecode import is_compiled_from, source_of
from export.delivery.golden import ANSWERS, CLASSES, PREPROCESSING, TOLERANCES, expected_pictures, right
from export.delivery.manifest import ANEW, bundle_files, described, read_manifest
from export.onnx import preprocessing_metadata
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
    _check_model(folder / PREPROCESSING, PREPROCESSING, manifest.preprocessing_signature, manifest, path, whole=True)
    for name, about in manifest.models.items():
        if not 0 < about.tolerance <= TOLERANCES[about.precision]:
            raise InputError(
                f"the manifest of {path} lets probabilities of {name} differ by {about.tolerance:g}, and "
                f"{TOLERANCES[about.precision]:g} is allowed for {about.precision}",
                ANEW,
            )
        _check_model(folder / manifest.path(name), name, about.signature, manifest, path)
    _check_triton(folder, manifest, path)
    _check_golden(manifest, path)
    return manifest


def _check_model(
    file: Path, name: str, signature: str, manifest: BundleManifest, path: Path, *, whole: bool = False
) -> None:
    """A file has the inputs and outputs of the manifest, and its metadata does not contradict it.

    whole: whether it must say how pictures are seen. Models that were not exported here need not.
    """
    found, own = described(file)
    if found != signature:
        raise InputError(f"{name} in {path} is {found}, and the manifest says {signature}", ANEW)
    _same_classes(own.get("class_names"), manifest, f"{name} in {path}")
    square = Square(manifest.image_size, cast(Interpolation, manifest.interpolation), manifest.crop_pct, manifest.fit)
    for key, said in preprocessing_metadata(square, manifest.mean, manifest.std).items():
        other = own.get(key, "nothing" if whole else said)
        if other != said:
            raise InputError(f"{name} in {path} has {key} {other}, and the manifest says {said}", ANEW)


def _check_triton(folder: Path, manifest: BundleManifest, path: Path) -> None:
    """config.pbtxt speaks of the default model. A bundle that no Triton server takes may lack it."""
    if not (folder / TRITON).exists():
        return
    name = manifest.default_model
    about = manifest.models[name]
    facts = TritonFacts(
        about.file or name, about.runtime, len(manifest.mean), manifest.image_size, len(manifest.class_names)
    )
    if line := facts.lacking((folder / TRITON).read_text(encoding="utf-8")):
        raise InputError(f"{TRITON} in {path} does not say {line}, as the manifest does", ANEW)


def _check_golden(manifest: BundleManifest, path: Path) -> None:
    """There are as many golden pictures of each class as the evaluation split gives."""
    if strange := sorted(set(manifest.golden.values()) - set(manifest.class_names)):
        raise InputError(f"a golden picture of {path} has a class that its manifest does not name: {strange[0]}", ANEW)
    if len(manifest.eval_images) != len(manifest.class_names):
        raise InputError(f"the manifest of {path} has not the number of images of each class", ANEW)
    wanted = expected_pictures(manifest.eval_images)
    there = Counter(manifest.golden.values())
    for name, count in zip(manifest.class_names, wanted, strict=True):
        if there[name] != count:
            raise InputError(
                f"{path} has {there[name]} golden pictures of {name}, and {count} by its evaluation split",
                ANEW,
            )


def check_labels(manifest: BundleManifest, recorded: Mapping[str, np.ndarray], path: Path) -> None:
    """The answers that were recorded [N, C] by model fit the classes of the golden pictures as well as they did.

    Raises:
        InputError: they do not, as where class names are in another order.
    """
    for name, about in manifest.models.items():
        found = right(recorded[name], manifest.golden, manifest.class_names)
        if found != about.golden_right:
            raise InputError(
                f"by the class names of {path} {name} gets {found} of {len(manifest.golden)} golden pictures right, "
                f"and its manifest says {about.golden_right}: the names are others, or in another order",
                ANEW,
            )


def _same_classes(found: str | None, manifest: BundleManifest, what: str) -> None:
    if found is not None and found != "\n".join(manifest.class_names):
        raise InputError(f"{what} has other class names, or in another order, than the manifest", ANEW)


def _left_by_use(name: str) -> bool:
    """Whether an editor or a file manager leaves such a file in a folder that is used. None of them is ever run."""
    path = PurePosixPath(name)
    return not _BY_USE.isdisjoint(path.parts) or path.name.startswith("._")
