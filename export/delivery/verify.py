"""Whether a bundle still answers as it did where it was made: its golden pictures are replayed on this machine."""

import logging
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
from scipy.special import softmax

from compress.system.errors import GateError, InputError
from compress.system.platform import processor
from export.delivery.checks import check_labels, checked_manifest
from export.delivery.golden import LIBRARIES, TOLERANCES, answers, recorded_answers
from export.delivery.instructions import lacking
from export.records import BundledModel

logger = logging.getLogger(__name__)


def verify_bundle(path: Path, *, threads: int | None = None) -> dict[str, float]:
    """Replays the golden pictures with every model, from their files: decoding, preprocessing, model.

    Every picture must get the class that was recorded, but where the first two were nearer to each other than the
    tolerance; and every probability must be as recorded within the tolerance. It warns where this CPU lacks
    instructions of the one that the bundle was measured on.

    Args:
        path: a bundle, as a folder or a zip.
        threads: of ONNX Runtime; None takes what this process may use.

    Returns:
        By model, the largest difference of a probability from what was recorded.

    Raises:
        InputError: the bundle is missing, not whole, was altered or contradicts itself.
        MachineError: a model needs OpenVINO, which is not installed.
        GateError: a model answers otherwise on this machine.
    """
    with _opened(path) as folder:
        manifest = checked_manifest(folder, path)
        if warning := lacking(manifest, processor()):
            logger.warning(warning)
        recorded = recorded_answers(folder, manifest, path)
        found = answers(folder, manifest.models, manifest.golden, threads)
    measured = {name: _difference(name, about, recorded[name], found[name]) for name, about in manifest.models.items()}
    check_labels(manifest, recorded, path)
    return measured


def _difference(name: str, about: BundledModel, recorded: np.ndarray, found: np.ndarray) -> float:
    expected, actual = (_probabilities(about, values) for values in (recorded, found))
    allowed = TOLERANCES[about.precision]
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > allowed
    changed = int((clear & (expected.argmax(1) != actual.argmax(1))).sum())
    largest = float(np.abs(actual - expected).max())
    if changed or not largest <= allowed:
        raise GateError(
            f"{name}: {changed} of {len(expected)} golden pictures get another class than was recorded, and "
            f"probabilities differ by up to {largest:.3g}, {allowed:.3g} allowed",
            f"This machine's {LIBRARIES[about.runtime]} or Pillow computes another result; try other versions of them",
        )
    return largest


def _probabilities(about: BundledModel, values: np.ndarray) -> np.ndarray:
    """Answers [N, C] as probabilities: a model that takes pixels gives them, the others give logits."""
    return values if about.input == "pixels" else softmax(values.astype(np.float64), axis=1)


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
