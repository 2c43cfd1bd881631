"""What names a teacher or an assistant that is kept for other runs: a hash of all that determines its weights.

In: a resolved recipe and its data. Out: 16 hexadecimal digits.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from compress import models
from compress.data import Dataset
from compress.distributed.world import current
from compress.models.published import Published, find_published
from compress.recipe import Recipe
from compress.recipe.train import FINE_TUNING, HOUSEKEEPING
from compress.system import files
from compress.system.hashes import sha256_json

TRAINING_FORMAT = 4  # raise it when the same recipe leads to other weights


def teacher_hash(recipe: Recipe, dataset: Dataset) -> str:
    """Names a trained teacher by all that determines it: data, architecture, published weights, training, and the
    number of processes.

    Args:
        recipe: resolved.
        dataset: as the teacher sees it.
    """
    found = find_published(recipe.teacher) if recipe.teacher.published else None
    determines: dict[str, Any] = {
        **current().identity,
        "format": TRAINING_FORMAT,
        "data": dataset.sha256,
        "normalization": [dataset.mean, dataset.std],
        "augment": recipe.data.augment.model_dump(),
        "architecture": models.architecture(recipe.teacher, dataset.image_size),
        "args": found.args if found else recipe.teacher.args,
        "weights": found.sha256 if found else None,
        "train": recipe.teacher.training.model_dump(exclude={*HOUSEKEEPING, *FINE_TUNING}),
    }
    if dataset.fit != "crop":  # square pictures give the same pixels by any fit, and its config.json another
        determines["fit"] = dataset.fit
    if dataset.interpolation != "bicubic":  # square pictures, too; crops of them differ
        determines["interpolation"] = dataset.interpolation
    if found:
        determines |= _of_config(found, determines["architecture"])
    return sha256_json(determines)[:16]


def assistant_hash(step: Recipe, dataset: Dataset, teacher_sha256: str, folder: Path) -> str:
    """Names an assistant by all that determines it.

    Args:
        step: the resolved recipe of its distillation.
        dataset: as the assistant sees it.
        teacher_sha256: of the weights of the model that teaches it.
        folder: of that model.
    """
    recipe = step.dump()
    determines = {
        **current().identity,
        "format": TRAINING_FORMAT,
        "teacher_sha256": teacher_sha256,
        "teacher_config": files.sha256_file(folder / models.CONFIG),  # equal weights may see pictures in two ways
        "data_sha256": dataset.sha256,
        "data": step.data.anywhere.model_dump(mode="json", exclude={"root"}),
        "train": {key: value for key, value in recipe["train"].items() if key not in HOUSEKEEPING},
        **{section: recipe[section] for section in ("teacher", "student", "supervision")},
    }
    if dataset.unlabeled:
        determines["unlabeled_sha256"] = dataset.unlabeled_sha256
    if step.student.published:
        found = find_published(step.student)
        determines |= {"weights": found.sha256, "preprocessing": asdict(found.preprocessing)}
        if found.args != step.student.args:
            determines["args"] = found.args
        determines |= _of_config(found, models.architecture(step.student, dataset.image_size))
    return sha256_json(determines)[:16]


def _of_config(found: Published, architecture: str) -> dict[str, Any]:
    """What a config.json decides beside the arguments: another architecture, and whether the last layer is kept."""
    own = {} if found.architecture == architecture else {"published_architecture": found.architecture}
    return own | {key: value for key in ("label_names", "label_offset") if (value := found.cfg.get(key))}
