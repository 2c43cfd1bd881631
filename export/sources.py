"""What is exported of a finished run: its student or its teacher, with the data that each sees."""

from torch import nn

from compress import models
from compress.data import Dataset
from compress.runs.data import data_of_teacher
from compress.runs.folder import Run
from compress.system.errors import InputError
from compress.system.files import sha256_file
from export.gates import Source


def student_source(run: Run, student: nn.Module, dataset: Dataset) -> Source:
    """The student, loaded, with the images as it sees them."""
    manifest = run.result
    provenance = _provenance(run, dataset, manifest.student_sha256)
    return Source(student, dataset, provenance, manifest.int8_input_ranges)


def teacher_source(run: Run) -> Source:
    """The teacher. Raises InputError where its weights are missing or not those of the manifest."""
    recorded, weights = run.result.teacher.sha256, run.teacher / models.WEIGHTS
    if not weights.is_file() or sha256_file(weights) != recorded:
        raise InputError(f"{weights} is missing or was altered: its hash is not the manifest's")
    dataset = data_of_teacher(run)
    return Source(models.load_model(run.teacher), dataset, _provenance(run, dataset, recorded))


def _provenance(run: Run, dataset: Dataset, weights: str) -> dict[str, str]:
    return {
        "run": run.path.name,
        "recipe_sha256": run.recipe.sha256,
        "data_sha256": dataset.sha256,
        "weights_sha256": weights,
    }
