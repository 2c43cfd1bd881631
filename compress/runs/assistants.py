"""Teacher assistants (Mirzadeh et al. 2019, arXiv 1902.03393): models between teacher and student.

In: a recipe with assistants. Out: one recipe and run for each assistant, and the records of the finished ones. Each
assistant is distilled from the model before it. Its run is kept below runs/assistants, by a hash of all that determines
it, so that other runs reuse it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import nn

from compress import models
from compress.data import Dataset
from compress.distributed.world import current
from compress.models import Ensemble
from compress.recipe import Member, Recipe, Student, Teacher, Train
from compress.recipe.train import FINE_TUNING
from compress.runs.checks import check_features, check_layers, check_logits
from compress.runs.folder import Run, assistants_root
from compress.runs.keys import assistant_hash
from compress.runs.locks import in_turn
from compress.runs.records import AssistantRecord
from compress.runs.trial import check_steps
from compress.system import files
from compress.system.errors import CompressError, InputError
from compress.training.checkpoint import has_checkpoints

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AssistantStep:
    """One step of the chain: a run that distils an assistant from the model before it."""

    name: str
    recipe: Recipe
    run: Run

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits while another process makes the same assistant. Errors within the block name this step.

        Raises:
            MachineError: the lock cannot be written.
        """
        world, path = current(), self.run.path
        lock = in_turn(path.with_suffix(".lock"), f"{self.name} in {path}") if world.leads else nullcontext()
        with lock, _naming(self.name):
            if world.leads and not self.run.manifest_file.exists():
                files.remove_leftovers(path)
            yield


def assistant_step(
    recipe: Recipe, number: int, teacher: Teacher, teacher_sha256: str, folder: Path, dataset: Dataset
) -> AssistantStep:
    """The run of one assistant.

    Args:
        recipe: resolved (`compress.runs.resolve`).
        number: of the assistant, from 1.
        teacher: the model from which it learns.
        teacher_sha256: of that model's weights.
        folder: holds them and that model's config.json.
    """
    settings = recipe.teacher.assistants[number - 1]
    defaults = {key: Train.model_fields[key].default for key in FINE_TUNING}
    step = Recipe(
        data=recipe.data,
        teacher=teacher,
        student=settings,
        supervision=recipe.supervision,
        train=recipe.train.model_copy(update={"seed": recipe.teacher.seed, **defaults}),
    )
    run = Run(assistants_root() / assistant_hash(step, dataset, teacher_sha256, folder))
    return AssistantStep(f"assistant {number}, {settings.model}", step, run)


def as_next_teacher(teacher: Teacher, assistant: Student, run: Run) -> Teacher:
    """A finished assistant as the teacher in the recipe of the next step."""
    return Teacher(
        model=assistant.model,
        stem="stock" if assistant.published and assistant.stem == "auto" else assistant.stem,
        args=assistant.args,
        source="checkpoint",
        checkpoint=str(run.student),
        seed=teacher.seed,
        cache=teacher.cache,
    )


def kept_assistants(run: Run) -> list[AssistantRecord]:
    """The assistants that a run already has, also where it is extended to more epochs. [] where they must be made.

    Raises:
        InputError: the student has begun to learn from an assistant that is gone or was altered.
    """
    world = current()
    recorded: list[AssistantRecord] = world.from_leader(lambda: run.manifest.assistants)
    if not recorded or world.from_leader(lambda: _is_kept(run, recorded[-1])):
        return recorded
    if world.from_leader(lambda: has_checkpoints(run.checkpoints)):
        raise InputError(
            f"{recorded[-1].run}, from which the student in {run.path} learns, is not there or was altered",
            "Go on in the folder in which that run was begun, or start a new one.",
        )
    return []


def keep_assistants(run: Run, assistants: list[AssistantRecord]) -> None:
    """Links the last assistant into the run and records all of them in its manifest."""
    files.link_folder(Run(Path(assistants[-1].run)).student, run.assistant)
    run.update({"assistants": assistants})


def check_assistants(recipe: Recipe, dataset: Dataset, given_teacher: nn.Module | None, student: nn.Module) -> None:
    """Makes every assistant once, before the teacher's long training.

    Warns of an assistant that is larger than the model before it.

    Args:
        given_teacher: the teacher module that the caller handed over, if any.
        student: the student that learns from the last assistant.

    Raises:
        UsageError: a model cannot be made, or a term names a feature that it does not have. The message names the step.
        InputError: a model does not fit the data.
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
            check_layers(model, recipe.training)
            check_steps(model, dataset, recipe.training, "assistant")
        before, teacher = chain[-1]
        if _parameters(model) > _parameters(teacher):
            largest = "the largest model of " if isinstance(teacher, Ensemble) else ""
            logger.warning(f"{name}, has more parameters than {largest}{before}, from which it learns")
        chain.append((name, model))
    for (before, teacher), (after, learner) in pairwise([*chain, ("the student", student)]):
        with _naming(f"from {before} to {after}"):
            check_features(teacher, recipe, dataset, "teacher")
            check_features(learner, recipe, dataset, "student")


def _made(settings: Member | Student, dataset: Dataset) -> nn.Module:
    return models.create_model(settings, num_classes=dataset.num_classes, image_size=dataset.image_size)


def _parameters(model: nn.Module) -> int:
    """The number of parameters; for an ensemble that of its largest member."""
    if isinstance(model, Ensemble):
        return max(map(_parameters, model.members))
    return sum(parameter.numel() for parameter in model.parameters())


def _is_kept(run: Run, last: AssistantRecord) -> bool:
    """Whether run/assistant holds that assistant. A run of an older version gets the folder here."""
    student = Run(Path(last.run)).student
    if not run.assistant.exists() and student.is_dir():
        files.link_folder(student, run.assistant)
    weights = run.assistant / models.WEIGHTS
    return weights.is_file() and files.sha256_file(weights) == last.sha256


@contextmanager
def _naming(step: str) -> Iterator[None]:
    """Errors within the block name the step."""
    try:
        yield
    except CompressError as error:
        raise type(error)(f"{step}: {error.message}", error.hint) from error
