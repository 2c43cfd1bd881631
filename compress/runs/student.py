"""The student: made, checked, trained and loaded again.

In: a recipe, the data and a supervisor. Out: the trained student in the run folder. It is made and checked before its
teacher is trained.
"""

import copy
import logging
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import models
from compress.data import Dataset, Splits
from compress.distributed.world import current
from compress.losses import Objective
from compress.models.published import published_model
from compress.recipe import Recipe
from compress.runs.assistants import check_assistants
from compress.runs.checks import check_features, check_layers, check_logits, check_training
from compress.runs.data import class_weights
from compress.runs.folder import Run, finished_run
from compress.runs.records import DataRecord
from compress.runs.trial import check_steps
from compress.system import files
from compress.system.arguments import require_type
from compress.system.errors import InputError
from compress.system.paths import user_path
from compress.system.seeds import stream
from compress.training import Position, accuracy, logits_of, qat, train
from compress.training.evaluate import images_of_a_pass
from compress.training.loop import Job
from compress.training.memo import Memo
from compress.training.metrics import MetricsLog
from compress.training.teacher_cache import TeacherViews
from compress.training.trackers import Trackers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Supervisor:
    """The model from which the student learns: the teacher, or the last of its assistants.

    Attributes:
        sha256: of its weights, and of what it says where the caller handed it over.
        folder: holds its weights and config.json.
    """

    model: nn.Module
    sha256: str
    folder: Path


def checked_student(
    recipe: Recipe, dataset: Dataset, given: nn.Module | None, given_teacher: nn.Module | None
) -> nn.Module:
    """The student, after checks that it can be trained as the recipe says.

    Args:
        given: the student module that the caller handed over, instead of the recipe's.
        given_teacher: the same for the teacher.

    Raises:
        UsageError: the student or an assistant cannot be made, quantised, frozen, or looked into as a term asks; or a
            training cannot be as the recipe says.
        InputError: the student or an assistant does not fit the data, or published weights do not fit the student.
        MachineError: published weights cannot be downloaded.
    """
    check_training(recipe, dataset)
    student = given
    if student is None:
        torch.manual_seed(stream(recipe.train.seed, "student", "weights"))
        size = dataset.image_size
        if recipe.student.published:
            student = published_model(recipe.student, size, class_names=dataset.class_names)
        else:
            student = models.create_model(recipe.student, num_classes=dataset.num_classes, image_size=size)
        name = models.architecture(recipe.student, size)
        supervision = ", ".join([recipe.supervision.method, *(term.name for term in recipe.supervision.terms)])
        logger.info(f"student: {name}, supervised by {supervision}")
    check_logits(student, dataset, "student")
    check_features(student, recipe, dataset, "student")
    check_layers(student, recipe.training)
    check_steps(student, dataset, recipe.training, "student", recipe.supervision.terms)
    if recipe.train.quantize is not None:
        quantized = qat.with_fake_quantization(student)
        check_steps(quantized, dataset, recipe.training, "student", recipe.supervision.terms)
    check_assistants(recipe, dataset, given_teacher, student)
    return student


def trained_student(
    student: nn.Module,
    supervisor: Supervisor,
    run: Run,
    recipe: Recipe,
    dataset: Dataset,
    splits: Splits,
    memo: Memo,
    label: str,
    trackers: Trackers,
) -> Generator[Position, None, dict[str, Any]]:
    """Trains a copy of the student, fine-tunes it for INT8 if the recipe says so, and saves it.

    Args:
        student: from `checked_student`.
        supervisor: the model from which it learns.
        memo: what the runs that take turns have in common.
        label: is put before each line of progress.
        trackers: of the run.

    Yields:
        The position before each step.

    Returns:
        The entries of the manifest for data and student.

    Raises:
        CompressError: whatever training and saving raise.
        Interrupted: a signal arrived.
    """
    world, settings = current(), recipe.training
    job = Job(
        phase="student",
        epochs=settings.epochs,
        objective=Objective.of(
            recipe.supervision,
            label_smoothing=settings.label_smoothing,
            class_weights=class_weights(settings, splits.train.labels, dataset.num_classes),
        ),
        settings=settings,
        augment=recipe.data.augment,
        files=run.training_files,
        provenance={"data": dataset.sha256, "teacher": supervisor.sha256, **_unlabeled(dataset)},
        views=_views(recipe, dataset, supervisor, splits.train.device),
        unlabeled_share=recipe.data.unlabeled_share if dataset.unlabeled else 0.0,
        label=label,
        trackers=trackers,
    )
    trained = yield from train(copy.deepcopy(student), job, splits, teacher=supervisor.model, memo=memo)
    ranges = None
    if settings.quantize is None:
        world.from_leader(lambda: MetricsLog(run.metrics).keep_before("quantize", 0))
    else:
        checkpoints = run.qat_checkpoints
        ranges = yield from qat.fine_tune(
            trained, job, splits, checkpoints=checkpoints, teacher=supervisor.model, memo=memo
        )
    result = accuracy(logits_of(trained, splits.evaluation), splits.evaluation.labels)
    sha256 = world.from_leader(lambda: models.save_model(trained, run.student, dataset))
    data = DataRecord(
        name=dataset.name,
        sha256=dataset.sha256,
        num_classes=dataset.num_classes,
        train_images=dataset.labeled,
        unlabeled_images=dataset.unlabeled,
        eval_images=len(dataset.eval_labels),
        eval_split=dataset.eval_split,
        balanced=dataset.balanced,
        warnings=list(dataset.warnings),
        left_out=dataset.left_out,
    )
    return {
        "data": data,
        "student_top1": result.top1,
        "student_balanced_top1": result.balanced_top1,
        "student_sha256": sha256,
        "int8_input_ranges": ranges,
    }


def load_student(run: Run | str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The student of a finished run, in eval mode.

    Args:
        run: a Run, or the path of its folder.
        model: the module to fill with the weights. It is needed where `distill` was given the student as a module.

    Raises:
        InputError: the run is not finished, its weights are missing or altered, or they do not fit `model`.
    """
    require_type(run, (Run, str, Path), "load_student: run")
    require_type(model, (nn.Module, type(None)), "load_student: model")
    run = finished_run(run.path if isinstance(run, Run) else user_path(run))
    weights = run.student / models.WEIGHTS
    if not weights.is_file() or files.sha256_file(weights) != run.manifest.student_sha256:
        raise InputError(f"{weights} is missing or was altered: its hash is not the manifest's")
    return models.load_model(run.student) if model is None else models.load_weights(model, run.student)


def _views(recipe: Recipe, dataset: Dataset, supervisor: Supervisor, device: torch.device) -> TeacherViews | None:
    """The cache of the supervisor's logits, if the recipe asks for one."""
    if recipe.teacher.cache is None:
        return None
    # config.json counts too: models of two architectures may have equal weights.
    determined_by = {
        "teacher": supervisor.sha256,
        "config": files.sha256_file(supervisor.folder / models.CONFIG),
        "data": dataset.sha256,
        **_unlabeled(dataset),
        "normalization": [dataset.mean, dataset.std],
        "augment": recipe.data.augment.model_dump(),
        "seed": recipe.train.seed,
        "precision": recipe.train.precision,
        "compile": recipe.train.compile,
        "device": device.type,
    }
    if recipe.data.augment.mixes:  # which decide the pairs
        determined_by |= {"batch_size": recipe.train.batch_size, "processes": current().size}
    return TeacherViews(
        count=recipe.teacher.cache.views,
        samples=len(dataset.train_labels),
        of_a_pass=images_of_a_pass(dataset.image_size**2),
        device=device,
        determined_by=determined_by,
    )


def _unlabeled(dataset: Dataset) -> dict[str, Any]:
    """The pictures without labels, among what determines a training."""
    return {"unlabeled": dataset.unlabeled_sha256} if dataset.unlabeled else {}
