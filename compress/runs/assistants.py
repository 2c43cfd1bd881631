"""Teacher assistants (arXiv 1902.03393): models between teacher and student, each distilled from the one before.

In: a run whose teacher is there. Out: its assistants. Each is a run of its own, kept below runs/assistants by a hash of
all that determines it, so that other runs reuse it.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import models
from compress.data import Dataset
from compress.distributed.world import current
from compress.models.wrappers import Ensemble
from compress.recipe import Model, Recipe, Train
from compress.runs.folder import ASSISTANTS, MANIFEST, RUNS, Run, in_turn
from compress.runs.teacher import FINE_TUNING, HOUSEKEEPING, TRAINING_FORMAT, check_features, check_logits
from compress.system import console, files
from compress.system.errors import CompressError, InputError
from compress.training.batches import Shared
from compress.training.checkpoint import has_checkpoints
from compress.training.loop import Position

Distil = Callable[..., Generator[Position, None, Run]]


def check_assistants(recipe: Recipe, dataset: Dataset, given_teacher: nn.Module | None, student: nn.Module) -> None:
    """Makes every assistant once, before hours of teacher training, and warns of one larger than the one before it.

    Raises UsageError naming the step, for a model that cannot be made and for a feature that a term names in vain.
    """
    if not recipe.teacher.assistants:
        return
    teacher = given_teacher
    if teacher is None:
        teacher = Ensemble(_made(member, dataset) for member in recipe.teacher.members)
        teacher = teacher if recipe.teacher.ensemble else teacher.members[0]
    chain = [("the teacher", teacher)]
    for number, settings in enumerate(recipe.teacher.assistants, 1):
        name = f"assistant {number}, {settings.model}"
        with _naming(name):
            model = _made(settings, dataset)
            check_logits(model, dataset, "assistant")
        before, teacher = chain[-1]
        if _parameters(model) > _parameters(teacher):
            largest = "the largest model of " if isinstance(teacher, Ensemble) else ""
            console.warn(f"{name}, has more parameters than {largest}{before}, from which it learns")
        chain.append((name, model))
    for (before, teacher), (after, learner) in pairwise([*chain, ("the student", student)]):
        with _naming(f"from {before} to {after}"):
            check_features(teacher, recipe, dataset, "teacher")
            check_features(learner, recipe, dataset, "student")


def obtain_assistants(
    run: Run,
    recipe: Recipe,
    dataset: Dataset,
    teacher_sha256: str,
    given_teacher: nn.Module | None,
    device: torch.device,
    shared: Shared,
    label: str,
    distil: Distil,
) -> Generator[Position, None, list[dict[str, Any]]]:
    """The run's assistants from the teacher on, each as model, run, sha256 and top1; its manifest has them, too.

    recipe: with nothing left open. distil: distill_in_steps, which calls this. A run that goes on keeps its assistants,
    also where it is extended to more epochs. While they are made the positions are those of a teacher.
    Raises InputError where they are gone and the student has begun.
    """
    world = current()
    recorded: list[dict[str, Any]] = world.from_leader(lambda: run.manifest.get("assistants", []))
    if recorded:
        if world.from_leader(lambda: _is_kept(run, recorded[-1])):
            return recorded
        if world.from_leader(lambda: has_checkpoints(run.checkpoints)):
            raise InputError(
                f"{recorded[-1]['run']}, from which the student in {run.path} learns, is not there or was altered",
                "Go on in the folder in which that run was begun, or start a new one.",
            )
    made: list[dict[str, Any]] = []
    teacher, sha256, given = recipe.teacher.model_copy(update={"assistants": []}), teacher_sha256, given_teacher
    for number, settings in enumerate(recipe.teacher.assistants, 1):
        step = Recipe(
            data=recipe.data,
            teacher=teacher,
            student=settings,
            supervision=recipe.supervision,
            train=recipe.train.model_copy(
                update={"seed": recipe.teacher.seed, **{key: Train.model_fields[key].default for key in FINE_TUNING}}
            ),
        )
        folder = RUNS / ASSISTANTS / _key(step, dataset, sha256)
        name = f"assistant {number}, {settings.model}"
        turn = in_turn(folder.with_suffix(".lock"), f"{name} in {folder}") if world.leads else nullcontext()
        with turn, _naming(name):
            if world.leads and not (folder / MANIFEST).exists():
                files.remove_leftovers(folder)
            console.say(f"{label}{name}: in {folder}")
            steps = distil(
                step,
                name="assistant",
                out=folder,
                resume=True,
                device=device.type,
                teacher=given,
                shared=shared,
                label=f"{label}{name}: ",
            )
            manifest = (yield from _as_teacher(steps)).manifest
            if manifest["teacher"]["sha256"] != sha256:
                raise InputError(f"its teacher's weights changed since {run.path} loaded them", "Start again.")
            world.from_leader(lambda: shutil.rmtree(Run(folder).checkpoints, ignore_errors=True))  # noqa: B023 - now
        sha256, given = manifest["student_sha256"], None
        teacher = teacher.model_copy(
            update={**dict(settings), "ensemble": [], "source": "checkpoint", "checkpoint": str(Run(folder).student)}
        )
        made.append({"model": settings.model, "run": str(folder), "sha256": sha256, "top1": manifest["student_top1"]})
        console.say(f"{label}{name}: top1 {manifest['student_top1']:.2%} on {dataset.eval_split} of {dataset.name}")
    if made:
        world.from_leader(lambda: _keep(run, made))
    return made


def _made(settings: Model, dataset: Dataset) -> nn.Module:
    return models.create_model(settings, num_classes=dataset.num_classes, image_size=dataset.image_size)


def _parameters(model: nn.Module) -> int:
    """Of an ensemble its largest member's."""
    if isinstance(model, Ensemble):
        return max(map(_parameters, model.members))
    return sum(parameter.numel() for parameter in model.parameters())


def _key(step: Recipe, dataset: Dataset, teacher_sha256: str) -> str:
    recipe = step.dump()
    determines = {
        **current().identity,
        "format": TRAINING_FORMAT,
        "teacher_sha256": teacher_sha256,
        "data_sha256": dataset.sha256,
        "data": {key: value for key, value in recipe["data"].items() if key != "root"},
        "train": {key: value for key, value in recipe["train"].items() if key not in HOUSEKEEPING},
        **{section: recipe[section] for section in ("teacher", "student", "supervision")},
    }
    return hashlib.sha256(json.dumps(determines, sort_keys=True).encode()).hexdigest()[:16]


def _keep(run: Run, assistants: list[dict[str, Any]]) -> None:
    files.link_folder(Run(Path(assistants[-1]["run"])).student, run.assistant)
    run.update(assistants=assistants)


def _is_kept(run: Run, last: dict[str, Any]) -> bool:
    """Whether run/assistant is that one. A run of an older version has no such folder, and gets it where it can."""
    student = Run(Path(last["run"])).student
    if not run.assistant.exists() and student.is_dir():
        files.link_folder(student, run.assistant)
    weights = run.assistant / models.WEIGHTS
    return weights.is_file() and files.sha256_file(weights) == last["sha256"]


def _as_teacher(steps: Generator[Position, None, Run]) -> Generator[Position, None, Run]:
    """The same steps, as of a teacher: runs in lockstep wait for one to make it."""
    with closing(steps):
        while True:
            try:
                position = next(steps)
            except StopIteration as end:
                return end.value
            yield replace(position, phase="teacher")


@contextmanager
def _naming(step: str) -> Iterator[None]:
    """Errors within say which step they are of."""
    try:
        yield
    except CompressError as error:
        raise type(error)(f"{step}: {error.message}", error.hint) from error
