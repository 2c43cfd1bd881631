"""From a recipe to a finished student.

In: a Recipe. Out: a finished Run. The order is: run folder and manifest, data, teacher, assistants, student.
"""

import contextlib
import functools
import logging
import platform
import shutil
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from compress.distributed.world import current, explained, joined
from compress.models.answers import answers_hash
from compress.recipe import Recipe
from compress.runs.arguments import check_arguments, torch_device
from compress.runs.assistants import as_next_teacher, assistant_step, keep_assistants, kept_assistants
from compress.runs.data import loaded_data
from compress.runs.dry_export import warn_if_not_exportable
from compress.runs.folder import Run, now
from compress.runs.headless import check_teacher_without_head
from compress.runs.locks import held, require_common_folder
from compress.runs.places import found_again
from compress.runs.records import AssistantRecord, Manifest, TeacherRecord
from compress.runs.resume import open_run
from compress.runs.student import Supervisor, checked_student, trained_student
from compress.runs.teacher import loaded_teacher, obtain_teacher
from compress.system import files
from compress.system.attempts import attempting
from compress.system.errors import CompressError, InputError
from compress.system.hashes import sha256_json
from compress.system.interrupts import deferred
from compress.system.paths import user_path
from compress.system.versions import version
from compress.training import Position, finish
from compress.training.checkpoint import has_checkpoints, newest_checkpoint
from compress.training.memo import Memo
from compress.training.metrics import read_metrics
from compress.training.trackers import TRACKED, Trackers, open_trackers

logger = logging.getLogger(__name__)


def distill(
    recipe: Recipe,
    *,
    name: str = "recipe",
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
) -> Run:
    """Trains (or loads) the teacher, distils the student, and returns the finished run.

    In processes that torchrun started it trains one run together. Each process returns it.

    Args:
        name: the first part of the run folder's name.
        out: the run folder. Teachers and assistants are shared by runs, so they still go to $COMPRESS_RUNS, else runs/.
        resume: continue from the newest checkpoint of `out`, or of this recipe's newest run.
        device: auto, cpu or cuda. CUDA_VISIBLE_DEVICES chooses among several GPUs.
        teacher: a module that maps [N, 3, H, W] to logits [N, C], instead of the recipe's teacher. It is copied.
        student: the same for the student.

    Raises:
        CompressError: its `code` is the documented exit code.
        Interrupted: SIGINT or SIGTERM arrived. What was trained is saved.
    """
    check_arguments(recipe, name, out, resume, teacher, student)
    steps = distill_in_steps(
        recipe, name=name, out=out, resume=resume, device=device, teacher=teacher, student=student, memo=Memo()
    )
    with joined(torch_device(device)):
        return finish(steps)


def distill_in_steps(
    recipe: Recipe,
    *,
    memo: Memo,
    name: str = "recipe",
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    label: str = "",
    extend: bool = True,
) -> Generator[Position, None, Run]:
    """`distill` as a generator that stops before every step of the student, so that several runs can take turns.

    The arguments that `distill` has too mean the same.

    Args:
        memo: what those runs have in common.
        label: is put before each line of progress.
        extend: whether a run may continue beyond the epochs that it began with.

    Yields:
        The position before each step of the student.

    Returns:
        The finished run.

    Raises:
        CompressError: its `code` is the documented exit code.
        Interrupted: SIGINT or SIGTERM arrived. What was trained is saved.
    """
    place, world = torch_device(device), current()
    where = None if out is None else user_path(out)
    run, resolved, goes_on = world.from_leader(lambda: open_run(recipe, name, where, resume, place, extend=extend))
    if not goes_on:
        return run
    work = _Work(run, resolved, place, teacher, student, memo, label)
    if not world.leads:
        with explained():
            yield from work.steps(Trackers())
            return world.from_leader(lambda: run)
    with held(run.path):
        finished_before = run.finished_files()
        manifest = _begin(work, name)
        began = time.perf_counter() - manifest.seconds
        trackers = Trackers()
        try:
            trackers = _trackers(run, resolved)
            with explained():
                results = yield from work.steps(trackers)
        except BaseException as stop:
            # The first error counts, also where the manifest cannot be written. A second signal waits.
            with contextlib.suppress(CompressError), deferred():
                failed = {"status": "failed", "error": str(stop)} if isinstance(stop, Exception) else {}
                run.update({"seconds": round(time.perf_counter() - began, 3), **failed})
                # A finished run stays finished until it is extended to its end.
                for path, content in finished_before.items():
                    files.write_bytes(path, content)
            trackers.finish("failed" if isinstance(stop, Exception) else "interrupted")
            raise
        run.update({**results, "status": "finished", "seconds": round(time.perf_counter() - began, 3)})
        measured = {name: value for name, value in run.manifest.dump().items() if isinstance(value, float)}
        trackers.finish("finished", lines=read_metrics(run.metrics), results=measured, artifacts=[run.student])
    return world.from_leader(lambda: run)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages on which a run depends, by name."""
    packages = ("compress", "torch", "timm", "numpy", "pillow", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _begin(work: "_Work", name: str) -> Manifest:
    """Writes recipe and manifest. Removes what another recipe left in a run without checkpoints."""
    run, recipe, processes = work.run, work.recipe, current().size
    before = run.manifest if run.manifest_file.exists() else None
    other = before is not None and (before.recipe_sha256, before.processes) != (recipe.sha256, processes)
    kept = {} if before is None else before.dump()
    if other and not has_checkpoints(run.checkpoints):
        for folder in (run.teacher, run.assistant):  # the run starts afresh, and its teacher may be another one
            shutil.rmtree(folder, ignore_errors=True)
        kept.pop("assistants", None)
        for path in (run.metrics, run.path / TRACKED):
            path.unlink(missing_ok=True)
    run.write_recipe(recipe)
    entries = {
        "schema_version": 1,
        "status": "running",
        "recipe": name,
        "method": recipe.supervision.method,
        "seed": recipe.train.seed,
        "recipe_sha256": recipe.sha256,
        "versions": versions(),
        "device": _device_name(work.device),
        "processes": processes,
        "working_folder": str(Path.cwd()) if before is None else before.working_folder,
        "started": now() if before is None else before.started,
        "error": None,
    }
    manifest = Manifest.model_validate({**kept, **entries})
    manifest.write(run.manifest_file)
    return manifest


def _trackers(run: Run, recipe: Recipe) -> Trackers:
    """The trackers that the recipe names, for the student or a teacher. They get the lines of a finished teacher."""
    members = [member.train for member in recipe.teacher.members if member.train is not None]
    names = [name for train in (recipe.train, *members) for name in train.tracker]
    trackers = open_trackers(names, run.path, recipe.dump())
    trackers.log([line for line in read_metrics(run.metrics) if line["phase"] == "teacher"])
    return trackers


@dataclass(frozen=True)
class _Work:
    """One run that all processes make together."""

    run: Run
    recipe: Recipe
    device: torch.device
    given_teacher: nn.Module | None
    given_student: nn.Module | None
    memo: Memo
    label: str

    def steps(self, trackers: Trackers) -> Generator[Position, None, dict[str, Any]]:
        """Teacher and assistants to their end, then the student step by step. Returns the manifest's results."""
        run, memo = self.run, self.memo
        current().from_leader(lambda: None)  # wait until the leader holds the folder
        require_common_folder(run.path)
        recipe = found_again(run, self.recipe)
        newest_checkpoint(run.checkpoints)  # raises where none is valid, before hours of teacher training
        if self.given_teacher is None:
            check_teacher_without_head(recipe, run)
        dataset, splits = loaded_data(recipe, self.device, memo)
        # The student is checked first, so that a mistake in it shows before its teacher is trained.
        with attempting(f"making {self._named('student')}"):
            student = checked_student(recipe, dataset, self.given_student, self.given_teacher)
            key = ("exportable", recipe.student.model_dump_json(), dataset.image_size, id(self.given_student))
            entry = recipe.student if self.given_student is None else None
            check = functools.partial(warn_if_not_exportable, student, dataset.image_size, entry)
            memo.once(key, lambda: current().from_leader(check))
        with attempting(f"obtaining {self._named('teacher')}"):
            teacher, measured = obtain_teacher(run, recipe, dataset, splits, self.given_teacher, memo, trackers)
        sha256 = measured.sha256
        if self.given_teacher is not None:  # its code counts, too
            sha256 = sha256_json([sha256, answers_hash(teacher, dataset.image_size)])
        supervisor = Supervisor(teacher, sha256, run.teacher)
        if assistants := self._assistants(recipe, measured, sha256):
            last = assistants[-1].sha256
            supervisor = Supervisor(loaded_teacher(run.assistant, last, dataset, memo), last, run.assistant)
        with attempting(f"training {self._named('student')}", hint="--debug shows where; --resume goes on."):
            results = yield from trained_student(
                student, supervisor, run, recipe, dataset, splits, memo, self.label, trackers
            )
        return {
            **results,
            "teacher": measured,
            "teacher_top1": measured.top1,
            "teacher_balanced_top1": measured.balanced_top1,
        }

    def _named(self, role: Literal["teacher", "student"]) -> str:
        """The model of that role, for messages."""
        given = self.given_teacher if role == "teacher" else self.given_student
        named = getattr(self.recipe, role).model if given is None else type(given).__name__
        return f"the {role} {named}"

    def _assistants(self, recipe: Recipe, measured: TeacherRecord, sha256: str) -> list[AssistantRecord]:
        """The models between teacher and student, kept from before or made now. sha256: of the teacher."""
        run, memo = self.run, self.memo
        if not recipe.teacher.assistants:
            return []
        if kept := kept_assistants(run):
            return kept
        dataset, _ = loaded_data(recipe, self.device, memo)
        made: list[AssistantRecord] = []
        teacher = recipe.teacher.model_copy(update={"assistants": []})
        identity, given, folder = measured.identity, self.given_teacher, run.teacher
        for number, settings in enumerate(recipe.teacher.assistants, 1):
            step = assistant_step(recipe, number, teacher, sha256, folder, dataset)
            with step.turn():
                logger.info(f"{self.label}{step.name}: in {step.run.path}")
                steps = distill_in_steps(
                    step.recipe,
                    memo=memo,
                    name="assistant",
                    out=step.run.path,
                    resume=True,
                    device=self.device.type,
                    teacher=given,
                    label=f"{self.label}{step.name}: ",
                )
                manifest = finish(steps).result
                if manifest.teacher.identity != identity:
                    raise InputError(f"its teacher's weights changed since {run.path} loaded them", "Start again.")
                current().from_leader(lambda: shutil.rmtree(step.run.checkpoints, ignore_errors=True))  # noqa: B023
            sha256, given, folder = manifest.student_sha256, None, step.run.student
            identity = (sha256,)
            teacher = as_next_teacher(teacher, settings, step.run)
            top1 = manifest.student_top1
            made.append(AssistantRecord(model=settings.model, run=str(step.run.path), sha256=sha256, top1=top1))
            logger.info(f"{self.label}{step.name}: top1 {top1:.2%} on {dataset.eval_split} of {dataset.name}")
        current().from_leader(lambda: keep_assistants(run, made))
        return made


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
