"""Whether a file is the one that was measured. An IR is two files: other weights leave its .xml as it is.

In: what was measured of a candidate. Out: whether a run or a record of its export has those very files.
"""

from collections.abc import Mapping

from compress import models
from compress.runs.folder import Run
from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.benchmark.results import CandidateResult
from export.folder import ExportFolder, ir_weights
from export.records import FileRecord


def is_recorded(measured: CandidateResult, files: Mapping[str, FileRecord]) -> bool:
    """Whether the record of an export has the file that was measured, and its weights where it is an IR."""
    entry = files.get(name := measured.file or measured.name)
    if entry is None or entry.sha256 != measured.sha256:
        return False
    if not measured.weights_sha256:
        return True
    weights = files.get(ir_weights(name))
    return weights is not None and weights.sha256 == measured.weights_sha256


def is_another(run: Run, measured: CandidateResult) -> bool:
    """Whether what is in the run now is not the file that was measured. Where there is no export, nothing is."""
    if measured.runtime == "torch":
        path = (run.teacher if measured.role == "teacher" else run.student) / models.WEIGHTS
        return path.is_file() and sha256_file(path) != measured.sha256
    folder, name = ExportFolder(run.export), measured.file or measured.name
    path = folder.file(name)
    if not path.is_file():
        return folder.of(measured.role).record_file.exists()
    if sha256_file(path) != measured.sha256:
        return True
    if not name.endswith(".xml"):
        return False
    weights = folder.file(ir_weights(name))
    expected = measured.weights_sha256 or _recorded_weights(folder.of(measured.role), name)
    return bool(expected) and (not weights.is_file() or sha256_file(weights) != expected)


def _recorded_weights(folder: ExportFolder, name: str) -> str:
    """Of a benchmark that does not name them: those that export.json has. Empty where it has none."""
    try:
        entry = folder.record().files.get(ir_weights(name))
    except (OSError, InputError):
        return ""
    return entry.sha256 if entry else ""
