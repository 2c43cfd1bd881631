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


def teacher_source(run: Run, model: nn.Module | None = None) -> Source:
    """The teacher. Raises InputError as `load_teacher` does."""
    loaded, dataset = load_teacher(run, model), data_of_teacher(run)
    return Source(loaded, dataset, _provenance(run, dataset, run.result.teacher.sha256))


def load_teacher(run: Run, model: nn.Module | None = None) -> nn.Module:
    """The teacher of a finished run, in eval mode.

    Args:
        model: the module to fill with the weights, where `distill` was given one.

    Raises:
        InputError: its weights are missing, not those of the manifest, or not those of `model`.
    """
    weights = run.teacher / models.WEIGHTS
    if not weights.is_file() or sha256_file(weights) != run.result.teacher.sha256:
        raise InputError(f"{weights} is missing or was altered: its hash is not the manifest's")
    config = models.read_config(run.teacher)
    if model is None and not config.get("architecture"):
        raise InputError(
            f"the teacher of {run.path} is a module that was handed over ({config.get('module')}), not one of timm's",
            "Give one like it to Python's export_run(run, teacher_model=...) or benchmark_run(run, teacher=...).",
        )
    return models.load_model(run.teacher) if model is None else models.load_weights(model, run.teacher)


def _provenance(run: Run, dataset: Dataset, weights: str) -> dict[str, str]:
    return {
        "run": run.path.name,
        "recipe_sha256": run.recipe.sha256,
        "data_sha256": dataset.sha256,
        "weights_sha256": weights,
    }
