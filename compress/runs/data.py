"""The data of a run, as each of its models sees it.

In: a recipe's data section, and how a model sees pictures. Out: a Dataset and its splits on the device. Models with
published weights have their own mean, std, interpolation and crop, so the data of the teacher may differ from the
student's.
"""

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from compress import models
from compress.data import Dataset, Splits, load_data, on_device
from compress.data.preprocessing import Preprocessing
from compress.data.unlabeled import with_unlabeled
from compress.distributed.world import current
from compress.losses.labels import balanced_weights
from compress.models.published import find_published
from compress.models.weights import teacher_preprocessing
from compress.recipe import Augment, Data, Member, Recipe
from compress.recipe.train import TrainSettings
from compress.runs.folder import Run
from compress.runs.places import data_found_again
from compress.system.errors import InputError
from compress.training.memo import Memo

logger = logging.getLogger(__name__)


def loaded_data(recipe: Recipe, device: torch.device, memo: Memo) -> tuple[Dataset, Splits]:
    """The data set as the student sees it, and its splits on the device. Runs with one memo share them.

    Raises:
        InputError: the data is missing or damaged, or so is the configuration of the student's published weights.
        UsageError: timm publishes no such weights.
        MachineError: the cache cannot be written, or the Hub cannot be reached.
    """
    seen = find_published(recipe.student).preprocessing if recipe.student.published else Preprocessing()

    def load() -> tuple[Dataset, Splits]:
        dataset = load_data(recipe.data, seen)
        if recipe.data.unlabeled is not None:
            skip = recipe.data.on_bad_image == "skip"
            dataset = with_unlabeled(dataset, recipe.data.unlabeled, skip=skip)
        logger.info(_describe(dataset, recipe.data.augment))
        if dataset.left_out:
            logger.warning(_left_out(dataset.left_out))
        for warning in dataset.warnings:
            logger.warning(warning)
        return dataset, on_device(dataset, device, processes=current().size_here)

    key = ("data", recipe.data.model_dump_json(), seen, device)
    return memo.once(key, lambda: current().leader_first(load))


def teacher_data(
    member: Member, recipe: Recipe, dataset: Dataset, splits: Splits, memo: Memo, *, kept: Path | None = None
) -> tuple[Dataset, Splits]:
    """The data set as a teacher sees it, and its splits on the device.

    Args:
        dataset: as the student sees it. The teacher gets the same where it sees it alike.
        splits: of that.
        kept: the folder of the finished teacher, if the run has it. It then says how the teacher sees pictures.

    Raises:
        InputError: the teacher's config.json is damaged, or the data is.
        UsageError: timm publishes no such weights.
        MachineError: the cache cannot be written, or the Hub cannot be reached.
    """
    seen, settings = as_teacher_sees(member, recipe.data) if kept is None else _as_recorded(kept, recipe.data)
    key = ("teacher data", settings.model_dump_json(), seen)
    found = memo.once(key, lambda: current().leader_first(lambda: load_data(settings, seen)))
    if (found.sha256, found.mean, found.std) == (dataset.sha256, dataset.mean, dataset.std):
        return dataset, splits
    return found, on_device(found, splits.train.device, processes=current().size_here)


def as_teacher_sees(member: Member, data: Data) -> tuple[Preprocessing, Data]:
    """How a teacher that is not there yet sees pictures, and the data at its size."""
    size = data.image_size if member.image_size is None else member.image_size
    return teacher_preprocessing(member), data.model_copy(update={"image_size": size})


def data_of_student(run: Run, settings: Data | None = None) -> Dataset:
    """The data of a finished run as its student sees it.

    Args:
        settings: where the data is now. Default: as the run's recipe says.

    Raises:
        InputError: it is not the data that the run was trained on.
    """
    return _recorded(run, run.student, settings or run.recipe.data, run.result.data.sha256)


def data_of_teacher(run: Run) -> Dataset:
    """The data of a finished run as its teacher sees it.

    Raises:
        InputError: it is not the data that the teacher was measured on.
    """
    if run.result.teacher.source != "module":
        return _recorded(run, run.teacher, run.recipe.data, run.result.teacher.data)
    dataset = data_of_student(run)  # a teacher that was handed over sees the student's, normalised in another way
    seen, _ = _as_recorded(run.teacher, run.recipe.data)
    return replace(dataset, mean=seen.mean or dataset.own_mean, std=seen.std or dataset.own_std)


def class_weights(settings: TrainSettings, labels: Tensor, num_classes: int) -> Tensor | None:
    """The weights of the classes that a training asks for, float32 [num_classes], on the device of the labels.

    Args:
        labels: int64 [N], of the images to train on.
    """
    return balanced_weights(labels, num_classes) if settings.class_weights == "auto" else None


def _as_recorded(folder: Path, data: Data) -> tuple[Preprocessing, Data]:
    """How a saved model sees pictures, and the data at the size that it was saved with."""
    cfg = models.read_config(folder).get("pretrained_cfg") or {}
    size = cfg.get("input_size", [data.image_size])[-1]
    return Preprocessing.of(cfg, str(folder / models.CONFIG)), data.model_copy(update={"image_size": size})


def _recorded(run: Run, folder: Path, data: Data, sha256: str) -> Dataset:
    seen, settings = _as_recorded(folder, data)
    dataset = load_data(data_found_again(run, settings), seen)
    if dataset.sha256 != sha256:
        raise InputError(
            f"{run.path} was trained on other {dataset.name} data than is here",
            "Point data.root to that data, or train again.",
        )
    return dataset


def _left_out(problems: dict[str, str]) -> str:
    path, problem = next(iter(problems.items()))
    if len(problems) == 1:
        return f"1 image cannot be read and is left out: {path} {problem}"
    return f"{len(problems):,} images cannot be read and are left out, such as {path}, which {problem}"


def _describe(dataset: Dataset, augment: Augment) -> str:
    kinds = augment.model_dump(exclude={"erase_mode", "scale"}) | {"scale": augment.scale < 1}
    used = ", ".join(name for name, value in kinds.items() if value) or "none"
    return (
        f"data: {dataset.name}, {dataset.labeled:,} images to train on, "
        f"{len(dataset.eval_labels):,} to evaluate on ({dataset.eval_split}), "
        f"{f'{dataset.unlabeled:,} without a label, ' if dataset.unlabeled else ''}"
        f"{dataset.num_classes} classes, {dataset.image_size} pixels; augmentation: {used}"
        f"{'; decoded for each use' if dataset.streamed else ''}"
    )
