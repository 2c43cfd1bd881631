"""Obtains the teacher of a run.

In: a recipe and the data. Out: the teacher and its record, in run/teacher. A teacher is trained by the same loop, or
comes from a checkpoint, from the timm hub or from the caller. It is trained to its end before the student begins.
"""

import copy
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import models
from compress.data import Dataset, Splits
from compress.distributed.world import current
from compress.losses import Objective
from compress.models import Ensemble
from compress.models.published import published_model
from compress.recipe import Recipe
from compress.runs.checks import check_above_chance, check_answers, check_features, check_layers, check_logits
from compress.runs.data import class_weights, teacher_data
from compress.runs.folder import Run, TeacherFolder, read_teacher_record, teacher_record_file, teachers_root
from compress.runs.headless import refuse_logits_without_head, uses_features_alone
from compress.runs.keys import teacher_hash
from compress.runs.locks import in_turn, require_common_folder, scratch
from compress.runs.records import MemberRecord, TeacherRecord
from compress.runs.trial import check_steps
from compress.system import files
from compress.system.errors import InputError, UsageError
from compress.system.seeds import stream
from compress.training import accuracy, finish, logits_of, train
from compress.training.loop import Job
from compress.training.memo import Memo
from compress.training.metrics import MetricsLog
from compress.training.trackers import Trackers

logger = logging.getLogger(__name__)


def obtain_teacher(
    run: Run, recipe: Recipe, dataset: Dataset, splits: Splits, given: nn.Module | None, memo: Memo, trackers: Trackers
) -> tuple[nn.Module, TeacherRecord]:
    """The teacher, and what was measured of it. Afterwards it is also in run/teacher.

    Runs with the same teacher and memo get the same module, unless the caller gave one.

    Args:
        recipe: resolved (`compress.runs.resolve`).
        given: the teacher module that the caller handed over, instead of the recipe's. It is copied.
        trackers: of the run. They get the lines of a teacher that is trained here, also those of earlier runs.

    Raises:
        InputError: the teacher's classes are not those of the data, its weights cannot be read, or run/teacher was
            measured on other data.
        UsageError: a member of an ensemble is there twice, or a model cannot be made.
        MachineError: published weights are not available.
    """
    world = current()
    alone = given is None and not recipe.teacher.ensemble
    there = world.from_leader(teacher_record_file(run.teacher).exists)
    own, own_splits = dataset, splits
    if alone:
        kept_model = run.teacher if there else None
        own, own_splits = teacher_data(recipe.teacher, recipe, dataset, splits, memo, kept=kept_model)
    module = None if given is None else _given_teacher(given, dataset)
    if module is not None or not there:
        if module is not None:
            _save_with_record(module, run.teacher, dataset, splits, source="module")
        elif recipe.teacher.ensemble:
            _save_ensemble(run, recipe, dataset, splits, memo)
        elif recipe.teacher.trained_here:
            kept = trained_teacher(recipe, own, own_splits, trackers)
            world.from_leader(lambda: _take_over(kept, run, trackers))
        else:
            measured = memo.once(
                ("foreign teacher", recipe.teacher.model_dump_json(), own.sha256, uses_features_alone(recipe)),
                lambda: _save_foreign_teacher(recipe, run.teacher, own, own_splits),
            )
            if measured != run.teacher:
                files.link_folder(measured, run.teacher)
    record = read_teacher_record(run.teacher)
    if record.data != own.sha256:
        raise InputError(
            f"the teacher in {run.teacher} was measured on other {dataset.name} data than is here",
            "Point data.root to that data, or start a new run.",
        )
    if record.top1 is None:
        logger.info("teacher: without a last layer, so it has no accuracy")
    else:
        logger.info(f"teacher: top1 {record.top1:.2%} on {own.eval_split} of {own.name}")
        check_above_chance(record, own, recipe)
    loaded = loaded_teacher(run.teacher, record.sha256, dataset, memo) if module is None else module
    return loaded, record


def loaded_teacher(folder: Path, sha256: str, dataset: Dataset, memo: Memo) -> nn.Module:
    """The model in that folder, behind the normalisation that its weights expect.

    One memo gives everyone the same module.

    Raises:
        InputError: the folder holds no complete model, or its classes are not those of the data.
    """
    key = ("teacher", sha256, dataset.mean, dataset.std, dataset.image_size)
    return memo.once(key, lambda: models.as_teacher(models.load_model(folder), dataset, str(folder)))


def trained_teacher(
    recipe: Recipe, dataset: Dataset, splits: Splits, trackers: Trackers | None = None
) -> TeacherFolder:
    """The teacher that the recipe asks for: kept from before, or trained now to its end.

    Args:
        recipe: resolved (`compress.runs.resolve`).
        dataset: as the teacher sees it.
        splits: of that.
        trackers: get a line for each epoch, if it is trained now.

    Raises:
        CompressError: whatever training raises. The teacher is then not kept.
        Interrupted: a signal arrived. The training resumes next time.
    """
    folder, world = TeacherFolder(teachers_root() / teacher_hash(recipe, dataset)), current()
    with in_turn(folder.path / ".lock", f"teacher in {folder.path}") if world.leads else nullcontext():
        world.from_leader(lambda: files.remove_leftovers(folder.path))
        require_common_folder(folder.path)
        if world.from_leader(lambda: folder.trained):
            logger.info(f"teacher: reused from {folder.path}")
            return folder
        model = _new_model(recipe, dataset)
        check_logits(model, dataset, "teacher")
        check_features(model, recipe, dataset, "teacher")
        check_steps(model, dataset, recipe.teacher.training, "teacher")
        name = models.architecture(recipe.teacher, dataset.image_size)
        logger.info(f"teacher: {name}, to be trained in {folder.path}")
        settings = recipe.teacher.training
        job = Job(
            phase="teacher",
            epochs=settings.epochs,
            objective=Objective(
                settings.label_smoothing,
                class_weights=class_weights(settings, splits.train.labels, dataset.num_classes),
            ),
            settings=settings,
            augment=recipe.data.augment,
            files=folder.training_files,
            provenance={"data": dataset.sha256},
            trackers=trackers or Trackers(),
        )
        trained = finish(train(model, job, splits))
        _save_with_record(trained, folder.model, dataset, splits, source=recipe.teacher.source)
        world.from_leader(lambda: shutil.rmtree(folder.training_files.checkpoints, ignore_errors=True))
    return folder


def _given_teacher(given: nn.Module, dataset: Dataset) -> nn.Module:
    """A copy of the caller's teacher. It gets images that are normalised with the data's own mean and std."""
    own: Any = copy.deepcopy(given)
    if getattr(own, "pretrained_cfg", None) is not None:  # it is saved with that
        normalized = {"mean": dataset.own_mean, "std": dataset.own_std}
        own.pretrained_cfg = {**own.pretrained_cfg, **normalized}
    model = models.adapted(own, dataset, dataset.own_mean, dataset.own_std)
    check_logits(model, dataset, "teacher")
    return model


def _take_over(kept: TeacherFolder, run: Run, trackers: Trackers) -> None:
    files.link_folder(kept.model, run.teacher)
    MetricsLog(run.metrics, trackers).replace_phase("teacher", kept.training_files.metrics)


def _save_foreign_teacher(recipe: Recipe, folder: Path, dataset: Dataset, splits: Splits) -> Path:
    settings = recipe.teacher
    if settings.source == "checkpoint":
        model: Any = models.checkpoint_teacher(settings, dataset)
    else:
        model = models.pretrained_teacher(settings, dataset, for_features=uses_features_alone(recipe))
    headless = model.num_classes == 0
    if headless:
        refuse_logits_without_head(recipe)
    else:
        check_logits(model, dataset, "teacher")
    _save_with_record(model, folder, dataset, splits, source=settings.source, headless=headless)
    return folder


def _save_ensemble(run: Run, recipe: Recipe, dataset: Dataset, splits: Splits, memo: Memo) -> None:
    """Saves teacher and ensemble members as one model. Trained members are kept as if each were alone."""
    # Every mistake must show before the first member is trained.
    alone = [
        recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={**dict(member), "ensemble": []})})
        for member in recipe.teacher.members
    ]
    seen = [teacher_data(member, recipe, dataset, splits, memo) for member in recipe.teacher.members]
    with scratch(run.path) as own:
        folders = [own / str(number) for number in range(len(alone))]
        names = []
        for one, folder, (own, own_splits) in zip(alone, folders, seen, strict=True):
            if one.teacher.trained_here:
                made = _new_model(one, own)
                check_logits(made, own, "teacher")
                check_layers(made, one.teacher.training)
                check_steps(made, own, one.teacher.training, "teacher")
                names.append(teacher_hash(one, own))
            else:
                _save_foreign_teacher(one, folder, own, own_splits)
                names.append(read_teacher_record(folder).sha256)
        _refuse_twins(alone, names)
        for number, (one, (own, own_splits)) in enumerate(zip(alone, seen, strict=True)):
            if one.teacher.trained_here:
                folders[number] = trained_teacher(one, own, own_splits).model
        records = [read_teacher_record(folder) for folder in folders]
        for one, record in zip(alone, records, strict=True):
            if record.top1 is None:
                raise UsageError(
                    f"the teacher {one.teacher.model} has no last layer, and an ensemble needs its logits",
                    "Give it one by source: finetune, or leave it out.",
                )
        _refuse_twins(alone, [record.sha256 for record in records])
        members = [models.as_teacher(models.load_model(folder), dataset, str(folder)) for folder in folders]
        recorded = [
            MemberRecord(model=one.teacher.model, source=record.source, sha256=record.sha256, top1=record.top1)
            for one, record in zip(alone, records, strict=True)
        ]
        _save_with_record(Ensemble(members), run.teacher, dataset, splits, source="ensemble", members=recorded)


def _refuse_twins(alone: list[Recipe], names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"teacher.ensemble.{number - 1}, {alone[number].teacher.model}, is the same teacher as another one",
                "Give it another seed, or leave it out.",
            )


def _new_model(recipe: Recipe, dataset: Dataset) -> nn.Module:
    torch.manual_seed(stream(recipe.teacher.seed, "teacher", "weights"))
    if recipe.teacher.published:
        return published_model(recipe.teacher, dataset.image_size, class_names=dataset.class_names)
    return models.create_model(recipe.teacher, num_classes=dataset.num_classes, image_size=dataset.image_size)


def _save_with_record(
    model: nn.Module,
    folder: Path,
    dataset: Dataset,
    splits: Splits,
    *,
    source: str,
    members: list[MemberRecord] | None = None,
    headless: bool = False,
) -> None:
    """Saves the model and then its record: a folder without a record is not complete.

    headless: the model has no last layer, so there is no accuracy to measure.
    """
    model = model.to(splits.evaluation.device)
    measured: dict[str, float] = {}
    if not headless:
        logits = logits_of(model, splits.evaluation)
        check_answers(logits, dataset, source)
        measured = vars(accuracy(logits, splits.evaluation.labels))

    def save() -> None:
        sha256 = models.save_model(model, folder, dataset)
        record = TeacherRecord(source=source, sha256=sha256, data=dataset.sha256, members=members, **measured)
        record.write(teacher_record_file(folder))

    current().from_leader(save)
