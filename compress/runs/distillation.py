"""From a recipe to a finished student: data, teacher, student, run folder. Also the Python API of the same shape."""

import contextlib
import copy
import platform
import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress import models, recipe
from compress.data import Dataset, load_data
from compress.data.augment import Splits, on_device
from compress.distributed.world import current, explained, joined
from compress.losses.objective import Objective
from compress.recipe import Recipe
from compress.runs import folder as run_folder
from compress.runs.assistants import check_assistants, obtain_assistants
from compress.runs.folder import Run
from compress.runs.resume import open_run
from compress.runs.teacher import check_features, check_logits, obtain_teacher
from compress.system import console, files
from compress.system.distribution import version
from compress.system.errors import CompressError, InputError, MachineError
from compress.system.interrupts import deferred
from compress.training import qat as quantize
from compress.training.batches import Shared, stream
from compress.training.checkpoint import has_checkpoints, newest_checkpoint
from compress.training.evaluate import accuracy, logits_of
from compress.training.loop import Position, finish, train
from compress.training.metrics import METRICS, MetricsLog
from compress.training.teacher_cache import TeacherViews


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

    teacher and student may be handed over as modules that map [N, 3, H, W] to logits [N, C]; the recipe's own are then
    not made. They are copied, not changed. name is the first part of the run folder's name.
    In processes that torchrun started it trains one run together, and all return it.
    Raises a CompressError whose `code` is the documented exit code.
    """
    steps = distill_in_steps(
        recipe, name=name, out=out, resume=resume, device=device, teacher=teacher, student=student, shared=Shared()
    )
    with joined(torch_device(device)):
        return finish(steps)


def distill_in_steps(
    recipe: Recipe,
    *,
    shared: Shared,
    name: str = "recipe",
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    teacher: nn.Module | None = None,
    student: nn.Module | None = None,
    label: str = "",
    extend: bool = True,
) -> Generator[Position, None, Run]:
    """distill() as a generator that stops before every step, so that several runs can go on in turns.

    shared: what those runs have in common. label: before each line of progress. extend: as open_run has it.
    """
    place, world = torch_device(device), current()
    where = None if out is None else Path(out)
    run, resolved, goes_on = world.from_leader(lambda: open_run(recipe, name, where, resume, place, extend=extend))
    if not goes_on:
        return run
    work = _distill_into(run, resolved, place, teacher, student, shared, label)
    if not world.leads:
        with explained():
            yield from work
            return world.from_leader(lambda: run)
    with run_folder.held(run.path):
        finished_before = run.finished_files()
        before = run.manifest if (run.path / run_folder.MANIFEST).exists() else {}
        began = time.perf_counter() - before.get("seconds", 0.0)
        others = bool(before) and (before["recipe_sha256"], before.get("processes", 1)) != (resolved.sha256, world.size)
        if others and not has_checkpoints(run.checkpoints):
            for kept in (run.teacher, run.assistant):  # it starts afresh, and those may be others
                shutil.rmtree(kept, ignore_errors=True)
            before.pop("assistants", None)
            (run.path / METRICS).unlink(missing_ok=True)
        run_folder.write_recipe(run, resolved)
        run.write_manifest(
            {
                **before,
                "schema_version": run_folder.SCHEMA_VERSION,
                "status": "running",
                "recipe": name,
                "method": resolved.supervision.method,
                "seed": resolved.train.seed,
                "recipe_sha256": resolved.sha256,
                "versions": versions(),
                "device": _device_name(place),
                "processes": world.size,
                "started": before.get("started", run_folder.now()),
                "error": None,
            }
        )
        try:
            with explained():
                results = yield from work
        except BaseException as stop:
            # Where the disk is full or the folder gone, the first error counts; and no second signal breaks in.
            with contextlib.suppress(CompressError), deferred():
                failed = {"status": "failed", "error": str(stop)} if isinstance(stop, Exception) else {}
                run.update(seconds=round(time.perf_counter() - began, 3), **failed)
                for path, content in finished_before.items():  # a run that was finished stays so until it is extended
                    files.write_bytes(path, content)
            raise
        run.update(**results, status="finished", seconds=round(time.perf_counter() - began, 3))
    return world.from_leader(lambda: run)


def load_student(run: Run | str | Path, *, model: nn.Module | None = None) -> nn.Module:
    """The student of a finished run, in eval mode. model is needed where the student was handed over as a module.

    Raises InputError where the run is not finished or its weights are not those that the manifest names.
    """
    run = run_folder.finished_run(run.path if isinstance(run, Run) else Path(run))
    weights = run.student / models.WEIGHTS
    if not weights.is_file() or files.sha256_file(weights) != run.manifest["student_sha256"]:
        raise InputError(f"{weights} is missing or was altered: its hash is not the manifest's")
    return models.load_model(run.student) if model is None else models.load_weights(model, run.student)


def torch_device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError("no CUDA device can be used", "Use --device cpu, or check the driver with nvidia-smi.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def versions() -> dict[str, str]:
    packages = ("compress", "torch", "timm", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _distill_into(
    run: Run,
    recipe: Recipe,
    device: torch.device,
    given_teacher: nn.Module | None,
    given_student: nn.Module | None,
    shared: Shared,
    label: str,
) -> Generator[Position, None, dict[str, Any]]:
    """The work itself, by all processes. Returns the manifest's results."""
    world = current()
    world.from_leader(lambda: None)  # it has the folder
    run_folder.check_shared(run.path)
    newest_checkpoint(run.checkpoints, warn=lambda _: None)  # none valid: say so before hours of teacher training
    dataset, splits = shared.once(
        ("data", recipe.data.model_dump_json(), device), lambda: world.leader_first(lambda: _data(recipe, device))
    )
    if unseen := set(range(dataset.num_classes)) - set(dataset.eval_labels.tolist()):
        console.warn(
            f"class {dataset.class_names[min(unseen)]!r} has no image to evaluate on ({len(unseen)} such classes)"
        )

    # The student comes first: a mistake in it must not show only after its teacher was trained.
    student = given_student
    if student is None:
        torch.manual_seed(stream(recipe.train.seed, "student", "weights"))
        student = models.create_model(recipe.student, num_classes=dataset.num_classes, image_size=dataset.image_size)
        name = models.architecture(recipe.student, dataset.image_size)
        supervision = ", ".join([recipe.supervision.method, *(term.name for term in recipe.supervision.terms)])
        console.say(f"student: {name}, supervised by {supervision}")
    check_logits(student, dataset, "student")
    check_features(student, recipe, dataset, "student")
    if recipe.train.quantize is not None:
        quantize.with_fake_quantization(student)
    check_assistants(recipe, dataset, given_teacher, student)
    teacher, facts = yield from obtain_teacher(run, recipe, dataset, splits, given_teacher, shared)
    supervising, config = facts["sha256"], run.teacher / models.CONFIG
    assistants = yield from obtain_assistants(
        run, recipe, dataset, supervising, given_teacher, device, shared, label, distill_in_steps
    )
    if assistants:
        supervising, config = assistants[-1]["sha256"], run.assistant / models.CONFIG
        teacher = shared.once(
            ("teacher", supervising),
            lambda: models.fit_teacher(models.load_model(run.assistant), dataset, str(run.assistant)),
        )
    provenance = {"data": dataset.sha256, "teacher": supervising}
    common: dict[str, Any] = {
        "splits": splits,
        "teacher": teacher,
        "objective": Objective.of(recipe.supervision, label_smoothing=recipe.train.label_smoothing),
        "augment": recipe.data.augment,
        "folder": run.path,
        "shared": shared,
        "label": label,
    }
    trained = yield from train(
        copy.deepcopy(student),
        settings=recipe.train,
        epochs=recipe.train.epochs,
        phase="student",
        provenance=provenance,
        views=_views(recipe, dataset, supervising, config, device),
        **common,
    )
    ranges = None
    if recipe.train.quantize is None:
        world.from_leader(lambda: MetricsLog(run.path).keep_before("quantize", 0))
    else:
        ranges = yield from quantize.fine_tune(trained, run, recipe.train, provenance=provenance, **common)
    result = accuracy(logits_of(trained, splits.evaluation), splits.evaluation.labels)
    sha256 = world.from_leader(lambda: models.save_model(trained, run.student, dataset))
    return {
        "data": {
            "name": dataset.name,
            "sha256": dataset.sha256,
            "num_classes": dataset.num_classes,
            "train_images": len(dataset.train_labels),
            "eval_images": len(dataset.eval_labels),
            "eval_split": dataset.eval_split,
            "balanced": dataset.balanced,
        },
        "teacher": facts,
        "teacher_top1": facts["top1"],
        "teacher_balanced_top1": facts["balanced_top1"],
        "student_top1": result.top1,
        "student_balanced_top1": result.balanced_top1,
        "student_sha256": sha256,
        "int8_input_ranges": ranges,
    }


def _data(recipe: Recipe, device: torch.device) -> tuple[Dataset, Splits]:
    dataset = load_data(recipe.data, say=console.say)
    console.say(_describe(dataset, recipe.data.augment))
    return dataset, on_device(dataset, device)


def _views(
    recipe: Recipe, dataset: Dataset, teacher_sha256: str, config: Path, device: torch.device
) -> TeacherViews | None:
    """config: config.json of the model. Those of another architecture may have equal weights."""
    if recipe.teacher.cache is None:
        return None
    determined_by = {
        "teacher": teacher_sha256,
        "config": files.sha256_file(config),
        "data": dataset.sha256,
        "augment": recipe.data.augment.model_dump(),
        "seed": recipe.train.seed,
        "precision": recipe.train.precision,
        "compile": recipe.train.compile,
        "device": device.type,
    }
    return TeacherViews(
        count=recipe.teacher.cache.views,
        samples=len(dataset.train_labels),
        device=device,
        determined_by=determined_by,
    )


def _describe(dataset: Dataset, augment: recipe.Augment) -> str:
    kinds = {"crop": augment.crop, "flip": augment.flip, "erase": augment.erase, "scale": augment.scale < 1}
    used = ", ".join(name for name, value in kinds.items() if value) or "none"
    return (
        f"data: {dataset.name}, {len(dataset.train_labels):,} images to train on, "
        f"{len(dataset.eval_labels):,} to evaluate on ({dataset.eval_split}), "
        f"{dataset.num_classes} classes, {dataset.image_size} pixels; augmentation: {used}"
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
