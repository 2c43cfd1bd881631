"""The training loop. The same loop trains students with a teacher and teachers without one.

In: a model, a Job and the splits. Out: the trained model. `train` reads from top to bottom: resume, the steps of each
epoch, evaluation, a line of metrics, a checkpoint.
"""

import logging
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from compress import recipe
from compress.data.splits import Splits
from compress.distributed.agreement import Agreement
from compress.losses.labels import share_right
from compress.losses.objective import Means, Objective
from compress.system import console
from compress.system.allocator import keep_freed_memory
from compress.system.errors import Interrupted, UsageError
from compress.system.hashes import sha256_json
from compress.system.interrupts import deferred
from compress.training.accumulation import gradients
from compress.training.batches import batches_and_teacher
from compress.training.checkpoint import newest_checkpoint, save_checkpoint
from compress.training.divergence import DivergenceWatch, gradient_norm
from compress.training.evaluate import accuracy, logits_of
from compress.training.files import TrainingFiles
from compress.training.memo import Memo
from compress.training.metrics import MetricsLog, peak_memory_mb
from compress.training.optimizer import skips_bad_steps
from compress.training.outlook import epoch_line, memory_explained, outlook
from compress.training.snapshot import restore, snapshot, take_terms
from compress.training.state import Phase, Training, prepare
from compress.training.teacher_cache import TeacherViews
from compress.training.trackers import Trackers

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Position:
    """The point that a training has reached: it is about to do this step. epoch and step count from 0."""

    phase: Phase
    epoch: int
    step: int


@dataclass(frozen=True)
class Job:
    """What a training does, apart from the model and the images.

    Attributes:
        objective: the loss.
        provenance: must be equal in a checkpoint from which the training resumes.
        views: keeps the teacher's logits (`compress.training.teacher_cache`).
        unlabeled_share: the part of a batch that has no labels, if the split has images without.
        follows: the checkpoints of an earlier training of `settings.epochs` epochs. This one continues it, and its
            terms start as they were at the end of that one.
        label: is put before each line of progress.
        trackers: where metrics also go. Those of the leader.
    """

    phase: Phase
    epochs: int
    objective: Objective
    settings: recipe.TrainSettings
    augment: recipe.Augment
    files: TrainingFiles
    provenance: dict[str, Any]
    views: TeacherViews | None = None
    unlabeled_share: float = 0.0
    follows: Path | None = None
    label: str = ""
    trackers: Trackers = field(default_factory=Trackers)


def train(
    model: nn.Module, job: Job, splits: Splits, *, teacher: nn.Module | None = None, memo: Memo | None = None
) -> Generator[Position, None, nn.Module]:
    """Trains `model` as the job says.

    It is a generator that stops before every step, so that several trainings can take turns; `finish` runs one to its
    end. Training continues from the newest valid checkpoint. On a CPU it is then bit-identical to a run without a
    break. With several processes (`compress.distributed`) each computes its part of every batch, and only the leader
    writes.

    Args:
        teacher: supervises the model where the objective needs it. It is not trained.
        memo: what the trainings that take turns have in common.

    Yields:
        The position before each step.

    Returns:
        The trained model, or its moving average if the settings ask for one, in eval mode.

    Raises:
        DivergedError: a loss or gradient is not finite. The step is not applied.
        Interrupted: a signal arrived. The step is finished and saved.
        MachineError: the device's memory is too small. The hint names a batch size that fits.
        UsageError: the checkpoints are further than job.epochs.
        InputError: the checkpoints belong to other data or another teacher, or none is valid.
    """
    settings, phase, epochs, label = job.settings, job.phase, job.epochs, job.label
    if splits.train.device.type == "cpu":
        keep_freed_memory()
    batches, light = batches_and_teacher(
        splits.train,
        teacher,
        job.objective,
        settings,
        job.augment,
        phase,
        views=job.views,
        unlabeled_share=job.unlabeled_share,
        memo=memo or Memo(),
    )
    before = 0 if job.follows is None else settings.epochs
    state = prepare(model, batches, job.objective, settings, epochs, phase, teacher=light, epochs_before=before)
    checkpoints = job.files.checkpoints
    if (found := newest_checkpoint(checkpoints)) is not None:
        restore(state, found, job.provenance, checkpoints)
        if (state.epoch, state.step) > (epochs, 0):
            raise UsageError(
                f"the checkpoints in {checkpoints} are of epoch {state.epoch + 1}, and {epochs} were asked for",
                "Go on with the train.epochs that the run was extended to, or start a new one.",
            )
    elif job.follows is not None:
        take_terms(state, job.follows)
    log = None
    if state.world.leads:
        log = MetricsLog(job.files.metrics, job.trackers)
        job.trackers.begin(phase, sha256_json(job.provenance))
        log.keep_before(phase, state.epoch)
    with memory_explained(state):
        logger.info(label + outlook(state, epochs))

    def save() -> None:
        made = snapshot(state, job.provenance)
        if state.world.leads:
            save_checkpoint(checkpoints, made, keep=settings.keep_checkpoints)

    with deferred() as signalled:
        interrupted = Agreement(signalled, state.world)
        while state.epoch < epochs:
            description = f"{label}{phase} {state.epoch + 1}/{epochs}"
            with memory_explained(state), console.progress_bar(description, state.batches.steps_per_epoch) as bar:
                yield from run_epoch(state, interrupted, bar, save)
            state.watch.raise_if_diverged(phase, state.epoch)
            try:
                interrupted.raise_if_set()
                state.world.follow_leader(state.kept)
                logits = logits_of(state.kept, splits.evaluation, precision=settings.precision, interrupted=interrupted)
            except Interrupted:
                save()
                raise
            result = accuracy(logits, splits.evaluation.labels)
            line = {
                "phase": phase,
                "epoch": state.epoch,
                **state.means.read(),
                "eval_top1": result.top1,
                "eval_balanced_top1": result.balanced_top1,
                "images_per_s": state.batches.steps_per_epoch * state.batches.batch_size / state.seconds,
                "seconds": state.seconds,
                "lr": max(group["lr"] for group in state.optimizer.param_groups),
                "peak_memory_mb": peak_memory_mb(splits.train.device),
            }
            if log is not None:
                log.write(line)
            logger.info(label + epoch_line(line, epochs, remaining=(epochs - 1 - state.epoch) * state.seconds))
            state.epoch, state.step, state.seconds, state.means = state.epoch + 1, 0, 0.0, Means()
            save()
            job.trackers.log([line])  # after the checkpoint: a server may be slow
            interrupted.raise_if_set()
    return state.result


def finish(steps: Generator[Position, None, T]) -> T:
    """Runs a training to its end and returns what the generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def run_epoch(
    state: Training, interrupted: Agreement, bar: console.Bar, save: Callable[[], None]
) -> Generator[Position, None, None]:
    """The steps of one epoch, from `state.step` on.

    On a GPU only the progress bar waits for the device, twice a second, besides the saving of checkpoints, the end of
    the epoch, and the steps of optimisers that are not fused.

    Args:
        interrupted: stops before a step after a signal.
        save: writes a checkpoint. It is called every `checkpoint_minutes`.

    Yields:
        The position before each step.

    Raises:
        DivergedError: before a checkpoint of weights that are not finite.
        Interrupted: a signal arrived during the teacher's first pass over a view.
    """
    batches, device, world = state.batches, state.batches.device, state.world
    parameters = list(state.trained.parameters())
    opponents = [] if state.terms is None else list(state.terms.discriminators.parameters())
    state.watch = DivergenceWatch(device, state.step, terms=state.terms.parts if state.terms is not None else ())
    state.begin_training()
    now = shown = saved = time.perf_counter()
    while state.step < batches.steps_per_epoch:
        stop, due = interrupted.before_step(save=now - saved > 60 * state.settings.checkpoint_minutes)
        if stop:
            return
        if due:
            state.watch.raise_if_diverged(state.phase, state.epoch)
            save()
            saved = time.perf_counter()
        if state.unfreeze():
            state.begin_training()
        yield Position(state.phase, state.epoch, state.step)
        began = time.perf_counter()
        batch = batches.get(state.epoch, state.step, interrupted.own)
        parts, student_logits = gradients(state, batch)
        right = share_right(student_logits, batch.labels, batch.mixed)
        parts = world.combined({**parts, "train_top1": right})

        norm = gradient_norm(parameters)
        if state.settings.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, state.settings.clip_grad, norm)
        if opponents:
            norm = torch.maximum(norm, torch.nn.utils.get_total_norm([p.grad for p in opponents if p.grad is not None]))
        bad = state.watch.check(parts, norm)
        for optimizer in state.optimizers.values():
            # From the first bad step on, a fused optimiser skips its update on the device. Others wait for the flag.
            if skips_bad_steps(optimizer):
                optimizer.found_inf = bad  # type: ignore[attr-defined]
            elif state.watch.diverged():
                continue
            optimizer.step()
        state.zero_grad()

        state.step += 1
        if state.schedule is not None:
            state.schedule.step_update(state.updates)
        if state.ema is not None:
            state.ema.update(state.model, step=state.updates)
        state.means.add(parts)

        if device.type == "cpu" and state.watch.diverged():
            return
        if device.type == "cuda" and state.step == batches.steps_per_epoch:
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        state.seconds += now - began
        if bar.visible and now - shown > 0.5:
            shown = now
            rate = state.step * batches.batch_size / state.seconds
            bar.show(state.step, f"{rate:,.0f} images/s  loss {parts['loss'].item():.3f}")
