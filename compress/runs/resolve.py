"""Resolves a recipe: every setting that it leaves open gets a value.

In: a recipe and the device. Out: the recipe that a run records as its recipe.yaml.
"""

from typing import Any, Literal

import torch

from compress.data import resolve_augment
from compress.data.loader_choice import choose_loader
from compress.data.sources import LAYOUTS
from compress.recipe import Member, Recipe, Train, validate_recipe
from compress.recipe.methods import default_alpha
from compress.recipe.train import FINE_TUNING, OPEN, TeacherTrain
from compress.runs.precision import fast_precision

_OF_THE_START = (*OPEN, "head_lr", "freeze_epochs")
"""Settings that a teacher does not take from the recipe's train where it starts with weights of another kind."""
_NEVER_THE_TEACHERS = ("freeze", "seed", *FINE_TUNING)


def resolve(given: Recipe, device: torch.device, like: Recipe | None = None) -> Recipe:
    """Gives every open setting of the recipe a value.

    Args:
        device: decides `precision: auto`, on a CPU by a measurement, and `loader: auto`.
        like: the recipe of the run to continue. Open epochs, precision and loader are taken from it; runs of earlier
            versions have the resident loader.

    Raises:
        UsageError: a setting does not fit the decided epochs.
        InputError: the data set is missing, where its size decides the loader.
    """
    size = given.data.image_size or LAYOUTS[given.data.name].image_size
    method = given.supervision.method
    alpha = given.supervision.alpha
    if alpha is None and method != "ce":
        alpha = default_alpha(method)
    precision = given.train.precision
    if precision == "auto":
        precision = like.train.precision if like is not None else fast_precision(given.student, size, device)
    train = given.train.model_copy(update={"precision": precision})
    precisions = _precisions_of_teachers(given, size, device, like)
    first = _member(given.teacher, given, train, None if like is None else like.teacher, precisions[0], epochs=None)
    epochs = first["train"]["epochs"] if first["train"] else None
    others = [
        _member(member, given, train, None, own, epochs=epochs)
        for member, own in zip(given.teacher.ensemble, precisions[1:], strict=True)
    ]
    content = given.dump()
    if like is None:
        loader = choose_loader(given.data, device)
    else:
        loader = next((one for one in (given.data.loader, like.data.loader) if one != "auto"), "resident")
    content["data"] |= {"image_size": size, "loader": loader, "augment": resolve_augment(given.data).model_dump()}
    content["teacher"] |= {**first, "ensemble": others}
    content["supervision"]["alpha"] = alpha
    if like is not None and train.warmup_epochs is None:  # its default follows the epochs, which may be raised
        train = train.model_copy(update={"warmup_epochs": like.train.warmup_epochs})
    content["train"] = train.decided(published=given.student.published).model_dump()
    return validate_recipe(content)


def _precisions_of_teachers(
    given: Recipe, size: int, device: torch.device, like: Recipe | None
) -> list[Literal["bf16", "fp32", "auto"]]:
    """In which each teacher is trained. What is auto is decided for each by itself.

    So a teacher is the same for students that are fast in another precision.
    """
    before = [] if like is None else like.teacher.members
    found: list[Literal["bf16", "fp32", "auto"]] = []
    for number, member in enumerate(given.teacher.members):
        asked = "auto" if member.train is None else member.train.precision
        asked = given.train.precision if asked == "auto" else asked
        if asked == "auto" and member.trained_here:
            if like is not None:
                own = before[number].train if number < len(before) else None
                asked = (own or like.train).precision
            else:
                asked = fast_precision(member, member.image_size or size, device)
        found.append(asked)
    return found


def _member(
    member: Member,
    given: Recipe,
    train: Train,
    like: Member | None,
    precision: Literal["bf16", "fp32", "auto"],
    *,
    epochs: int | None,
) -> dict[str, Any]:
    """A teacher as plain data, with settings of its own training where it is trained here.

    Args:
        train: the recipe's, from which it takes what it does not set itself.
        like: the teacher of the run to continue.
        precision: in which it is trained.
        epochs: of the first teacher, for the others of an ensemble.
    """
    content = {**member.model_dump(mode="json"), "epochs": None}
    if not member.trained_here:
        return {**content, "train": None}
    published = member.source == "finetune"
    alike = published == given.student.published
    left_out = _NEVER_THE_TEACHERS if alike else (*_NEVER_THE_TEACHERS, *_OF_THE_START)
    settings = {key: value for key, value in train.model_dump().items() if key not in left_out}
    own = {} if member.train is None else member.train.model_dump(include=member.train.model_fields_set)
    settings |= {key: value for key, value in own.items() if value is not None}
    settings["precision"] = precision
    if member.epochs is not None:
        settings["epochs"] = member.epochs
    elif own.get("epochs") is None and (kept := epochs or _epochs(like)):
        settings["epochs"] = kept
    decided = Train.model_validate(settings).decided(published=published)
    return {**content, "train": decided.model_dump(include=set(TeacherTrain.model_fields))}


def _epochs(like: Member | None) -> int | None:
    """Those of the teacher in the recipe of a run; runs of earlier versions have them beside its train."""
    if like is None:
        return None
    return like.epochs if like.train is None else like.train.epochs
