"""Where a teacher comes from: trained by the same loop and kept by hash, a checkpoint, the timm hub, or a module."""

import copy
import hashlib
import json
import shutil
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import models
from compress.data import Dataset
from compress.data.augment import Splits
from compress.distributed.world import current
from compress.losses.objective import Objective
from compress.losses.terms import tap
from compress.models.wrappers import Ensemble
from compress.recipe import Member, Recipe
from compress.runs.folder import RUNS, TEACHERS, Run, check_shared, in_turn, scratch
from compress.system import console, files
from compress.system.errors import InputError, UsageError
from compress.training.batches import Shared, stream
from compress.training.evaluate import accuracy, logits_of
from compress.training.loop import Position, train
from compress.training.metrics import METRICS, MetricsLog

TRAINING_FORMAT = 2  # raise it when the same recipe trains to other weights
HOUSEKEEPING = ("checkpoint_minutes", "keep_checkpoints", "tensorboard")
"""Settings of a training that its weights do not depend on."""
FINE_TUNING = ("quantize", "quantize_epochs", "quantize_lr")
"""Settings of what comes after a student's training."""
_FACTS = "facts.json"


def obtain_teacher(
    run: Run, recipe: Recipe, dataset: Dataset, splits: Splits, given: nn.Module | None, shared: Shared
) -> Generator[Position, None, tuple[nn.Module, dict[str, Any]]]:
    """The teacher and its facts (source, sha256, top1, balanced_top1). Afterwards it is in run/teacher, too.

    A generator, like the training that it may take. Runs that share a teacher get the same module.
    Raises InputError where its classes are not the data's, and where its weights cannot be read.
    """
    world = current()
    if given is not None or not world.from_leader((run.teacher / _FACTS).exists):
        if given is not None:
            model = copy.deepcopy(given)
            check_logits(model, dataset, "teacher")
            _save_with_facts(model, run.teacher, dataset, splits, source="module")
        elif recipe.teacher.ensemble:
            yield from _save_ensemble(run, recipe, dataset, splits)
        elif recipe.teacher.source == "train":
            kept = yield from trained_teacher(recipe, dataset, splits)
            world.from_leader(lambda: _take_over(kept, run))
        else:
            measured = shared.once(
                ("foreign teacher", recipe.teacher.model_dump_json(), dataset.sha256),
                lambda: _save_foreign_teacher(recipe.teacher, run.teacher, dataset, splits),
            )
            if measured != run.teacher:
                files.link_folder(measured, run.teacher)
    facts = _facts(run.teacher)
    if facts["data"] != dataset.sha256:
        raise InputError(
            f"the teacher in {run.teacher} was measured on other {dataset.name} data than is here",
            "Point data.root to that data, or start a new run.",
        )
    if given is not None:
        teacher = copy.deepcopy(given)
    else:
        teacher = shared.once(
            ("teacher", facts["sha256"]),
            lambda: models.fit_teacher(models.load_model(run.teacher), dataset, str(run.teacher)),
        )
    console.say(f"teacher: top1 {facts['top1']:.2%} on {dataset.eval_split} of {dataset.name}")
    return teacher, facts


def check_logits(model: nn.Module, dataset: Dataset, role: str) -> None:
    """Raises InputError where the model does not map the data's images to logits of its classes."""
    was_training = model.training
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        try:
            shape = list(model.eval()(torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)).shape)
        except Exception as error:
            raise InputError(
                f"the {role} does not take images of {dataset.image_size} pixels ({str(error).splitlines()[0]})",
                "Choose another data.image_size or model, or give a ViT its size, as in args: {img_size: 32}.",
            ) from error
    model.train(was_training)
    if shape != [2, dataset.num_classes]:
        raise InputError(
            f"the {role} has outputs of shape {shape[1:]}, and {dataset.name} has {dataset.num_classes} classes",
            "Its last layer must have one output a class.",
        )


def check_features(model: nn.Module, recipe: Recipe, dataset: Dataset, role: str) -> None:
    """Raises UsageError where a term of the recipe names a feature that the model does not have."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images = torch.zeros(2, 3, dataset.image_size, dataset.image_size, device=device)
    tap(model, recipe.supervision.terms, images, role=role)


def teacher_hash(recipe: Recipe, dataset: Dataset) -> str:
    """Names all that determines a trained teacher: data, architecture, and how it is trained, by how many processes."""
    determines = {
        **current().identity,
        "format": TRAINING_FORMAT,
        "data": dataset.sha256,
        "augment": recipe.data.augment.model_dump(),
        "architecture": models.architecture(recipe.teacher, dataset.image_size),
        "args": recipe.teacher.args,
        "epochs": recipe.teacher.epochs,
        "seed": recipe.teacher.seed,
        "train": recipe.train.model_dump(exclude={"epochs", "seed", *HOUSEKEEPING, *FINE_TUNING}),
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]


def trained_teacher(recipe: Recipe, dataset: Dataset, splits: Splits) -> Generator[Position, None, Path]:
    """The folder of the teacher that this recipe asks for, runs/teachers/HASH: kept from before, or trained now.

    recipe: with nothing left open (compress.runs.resume.resolve). The model is in model/ below that folder.
    """
    folder = RUNS / TEACHERS / teacher_hash(recipe, dataset)
    model_folder = folder / "model"
    world = current()
    with in_turn(folder / ".lock", f"teacher in {folder}") if world.leads else nullcontext():
        world.from_leader(lambda: files.remove_leftovers(folder))
        check_shared(folder)
        if world.from_leader((model_folder / _FACTS).exists):
            console.say(f"teacher: reused from {folder}")
            return folder
        model = _new_model(recipe, dataset)
        check_logits(model, dataset, "teacher")
        check_features(model, recipe, dataset, "teacher")
        console.say(f"teacher: {models.architecture(recipe.teacher, dataset.image_size)}, to be trained in {folder}")
        assert recipe.teacher.epochs is not None
        trained = yield from train(
            model,
            splits=splits,
            teacher=None,
            objective=Objective(recipe.train.label_smoothing),
            settings=recipe.train.model_copy(update={"seed": recipe.teacher.seed}),
            augment=recipe.data.augment,
            epochs=recipe.teacher.epochs,
            phase="teacher",
            folder=folder,
            provenance={"data": dataset.sha256},
        )
        _save_with_facts(trained, model_folder, dataset, splits, source="train")
        world.from_leader(lambda: shutil.rmtree(folder / "checkpoints", ignore_errors=True))
    return folder


def _take_over(kept: Path, run: Run) -> None:
    files.link_folder(kept / "model", run.teacher)
    MetricsLog(run.path).replace_phase("teacher", kept / METRICS)


def _save_foreign_teacher(settings: Member, folder: Path, dataset: Dataset, splits: Splits) -> Path:
    make = models.checkpoint_teacher if settings.source == "checkpoint" else models.pretrained_teacher
    model = make(settings, dataset)
    check_logits(model, dataset, "teacher")
    _save_with_facts(model, folder, dataset, splits, source=settings.source)
    return folder


def _save_ensemble(run: Run, recipe: Recipe, dataset: Dataset, splits: Splits) -> Generator[Position, None, None]:
    """The teacher and those beside it as one in run/teacher. Those that are trained are kept as if each were alone.

    Raises UsageError for a member that is there twice; all that can be wrong is found before the first is trained.
    """
    alone = [
        recipe.model_copy(update={"teacher": recipe.teacher.model_copy(update={**dict(member), "ensemble": []})})
        for member in recipe.teacher.members
    ]
    with scratch(run.path) as own:
        folders = [own / str(number) for number in range(len(alone))]
        names = []
        for one, folder in zip(alone, folders, strict=True):
            if one.teacher.source == "train":
                check_logits(_new_model(one, dataset), dataset, "teacher")
                names.append(teacher_hash(one, dataset))
            else:
                _save_foreign_teacher(one.teacher, folder, dataset, splits)
                names.append(_facts(folder)["sha256"])
        _refuse_twins(alone, names)
        for number, one in enumerate(alone):
            if one.teacher.source == "train":
                folders[number] = (yield from trained_teacher(one, dataset, splits)) / "model"
        facts = [_facts(folder) for folder in folders]
        _refuse_twins(alone, [entry["sha256"] for entry in facts])
        members = [models.fit_teacher(models.load_model(folder), dataset, str(folder)) for folder in folders]
        recorded = [
            {"model": one.teacher.model, **{key: entry[key] for key in ("source", "sha256", "top1")}}
            for one, entry in zip(alone, facts, strict=True)
        ]
        _save_with_facts(Ensemble(members), run.teacher, dataset, splits, source="ensemble", members=recorded)


def _refuse_twins(alone: list[Recipe], names: list[str]) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"teacher.ensemble.{number - 1}, {alone[number].teacher.model}, is the same teacher as another one",
                "Give it another seed, or leave it out.",
            )


def _new_model(recipe: Recipe, dataset: Dataset) -> nn.Module:
    torch.manual_seed(stream(recipe.teacher.seed, "teacher", "weights"))
    return models.create_model(recipe.teacher, num_classes=dataset.num_classes, image_size=dataset.image_size)


def _save_with_facts(
    model: nn.Module, folder: Path, dataset: Dataset, splits: Splits, *, source: str, **more: Any
) -> None:
    """The facts are written last: a folder without them is not whole."""
    model = model.to(splits.evaluation.images.device)
    result = accuracy(logits_of(model, splits.evaluation), splits.evaluation.labels)

    def save() -> None:
        sha256 = models.save_model(model, folder, dataset)
        facts = {"source": source, "sha256": sha256, "data": dataset.sha256, **vars(result), **more}
        files.write_json(folder / _FACTS, facts)

    current().from_leader(save)


def _facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / _FACTS).read_text(encoding="utf-8"))
