"""The loop. A student is trained with a teacher's supervision, and a teacher by the same loop without one.

train() reads top to bottom: resume, epochs of steps, evaluation, a line of metrics, a checkpoint.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress import console, recipe
from compress.augment import Splits
from compress.checkpoint import newest_checkpoint, save_checkpoint
from compress.divergence import DivergenceWatch
from compress.errors import Interrupted, MachineError
from compress.evaluate import accuracy, logits_of
from compress.interrupts import Flag, deferred
from compress.metrics import MetricsLog, peak_memory_mb
from compress.objective import Means, Objective
from compress.state import Phase, Training, prepare, restore, snapshot, stream


def train(
    model: nn.Module,
    *,
    splits: Splits,
    teacher: nn.Module | None,
    objective: Objective,
    settings: recipe.Train,
    augment: recipe.Augment,
    epochs: int,
    phase: Phase,
    folder: Path,
    provenance: dict[str, Any],
) -> nn.Module:
    """Trains `model` for `epochs` and returns what is to be kept, in eval mode: itself, or its moving average.

    folder gets checkpoints/ and metrics.jsonl; from a valid checkpoint there training goes on, bit-identical on CPU.
    provenance must be equal in the checkpoint and now. Raises DivergedError before a step whose loss or gradient is not
    finite, Interrupted after a signal, once the step is finished and saved, and MachineError where the device's memory
    is too small, with a batch size that fits.
    """
    state = prepare(model, teacher, objective, splits.train, settings, augment, epochs, phase)
    checkpoints = folder / "checkpoints"
    if (found := newest_checkpoint(checkpoints, warn=console.warn)) is not None:
        restore(state, found, provenance, checkpoints)
    log = MetricsLog(folder, tensorboard=settings.tensorboard)
    log.keep_before(phase, state.epoch)
    with _memory_explained(state):
        console.say(_outlook(state, epochs))

    def save() -> None:
        save_checkpoint(checkpoints, snapshot(state, provenance), keep=settings.keep_checkpoints)

    with deferred() as interrupted:
        while state.epoch < epochs:
            description = f"{phase} {state.epoch + 1}/{epochs}"
            with _memory_explained(state), console.progress_bar(description, state.steps_per_epoch) as bar:
                run_epoch(state, interrupted, bar, save)
            state.watch.raise_if_diverged(phase, state.epoch)
            try:
                interrupted.raise_if_set()
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
                "images_per_s": state.steps_per_epoch * state.batch_size / state.seconds,
                "seconds": state.seconds,
                "lr": state.optimizer.param_groups[0]["lr"],
                "peak_memory_mb": peak_memory_mb(splits.train.images.device),
            }
            log.write(line)
            console.say(_epoch_line(line, epochs, remaining=(epochs - 1 - state.epoch) * state.seconds))
            state.epoch, state.step, state.seconds, state.means = state.epoch + 1, 0, 0.0, Means()
            save()
            interrupted.raise_if_set()
    return state.kept.eval()


def run_epoch(state: Training, interrupted: Flag, bar: console.Bar, save: Callable[[], None]) -> None:
    """The steps of one epoch, from state.step on. Nothing waits for the device but the progress bar, twice a second."""
    device = state.images.images.device
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=state.settings.precision == "bf16")
    order = epoch_order(len(state.images.labels), seed=state.seed, epoch=state.epoch).to(device)
    parameters = [parameter for parameter in state.model.parameters() if parameter.requires_grad]
    before, first = state.seconds, state.step
    state.watch = DivergenceWatch(device, state.step)
    state.model.train()
    began = shown = saved = time.perf_counter()
    while state.step < state.steps_per_epoch and not interrupted:
        rows = order[state.step * state.batch_size : (state.step + 1) * state.batch_size]
        images = state.images.augmented(rows, state.augment, seed=state.seed, epoch=state.epoch)
        labels = state.images.labels[rows]
        with autocast:
            teacher_logits = None
            if state.teacher is not None:
                with torch.no_grad():
                    teacher_logits = state.teacher(images)
            student_logits = state.forward(images)
        parts = state.objective(student_logits, teacher_logits, labels)
        parts["loss"].backward()

        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if state.settings.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, state.settings.clip_grad, norm)
        # From the first bad step on, the fused optimiser leaves the weights alone on the device, without a sync.
        state.optimizer.found_inf = state.watch.check(parts, norm)  # type: ignore[attr-defined]
        state.optimizer.step()
        state.optimizer.zero_grad()

        state.step += 1
        updates = state.epoch * state.steps_per_epoch + state.step
        if state.schedule is not None:
            state.schedule.step_update(updates)
        if state.ema is not None:
            state.ema.update(state.model, step=updates)
        state.means.add({**parts, "train_top1": (student_logits.detach().argmax(1) == labels).float().mean()})

        now = time.perf_counter()
        state.seconds = before + now - began
        if device.type == "cpu" and state.watch.diverged():
            return
        if bar.visible and now - shown > 0.5:
            shown = now
            rate = (state.step - first) * state.batch_size / (now - began)
            bar.show(state.step, f"{rate:,.0f} images/s  loss {parts['loss'].item():.3f}")
        if now - saved > 60 * state.settings.checkpoint_minutes and state.step < state.steps_per_epoch:
            state.watch.raise_if_diverged(state.phase, state.epoch)
            save()
            saved = now
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    state.seconds = before + time.perf_counter() - began


def epoch_order(count: int, *, seed: int, epoch: int) -> Tensor:
    """A permutation of the rows, int64 [count], that depends on (seed, epoch) alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream(seed, "order", epoch)))


def _outlook(state: Training, epochs: int) -> str:
    """What is about to happen, about how long it will take, and what it needs on disk."""
    size = sum(value.numel() * value.element_size() for value in state.model.state_dict().values()) / 1e6
    copies = 2 + (state.ema is not None) + (state.settings.optimizer == "adamw")
    steps = epochs * state.steps_per_epoch - state.epoch * state.steps_per_epoch - state.step
    done = f", going on from epoch {state.epoch + 1}, step {state.step}" if state.epoch or state.step else ""
    time_left = (
        f"about {console.duration(steps * _seconds_per_step(state, state.batch_size))} and " if steps > 0 else ""
    )
    return (
        f"{state.phase}: {sum(p.numel() for p in state.model.parameters()) / 1e6:.1f} M parameters, {epochs} epochs of "
        f"{state.steps_per_epoch} steps of {state.batch_size} images{done}; "
        f"{time_left}{size * copies * state.settings.keep_checkpoints:,.0f} MB of checkpoints"
    )


@contextmanager
def _memory_explained(state: Training) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the tensors of the step
        fitting = _batch_size_that_fits(state)
        hint = f"train.batch_size={fitting} fits" if fitting else "No smaller batch fits: choose a smaller model"
        raise MachineError(
            f"{state.phase} training ran out of memory at epoch {state.epoch + 1}, step {state.step + 1}, with batches "
            f"of {state.batch_size} images",
            f"{hint}; or free memory and go on with --resume.",
        ) from error


def _batch_size_that_fits(state: Training) -> int:
    """A half, a quarter and so on of the batch size: the first with which a pass succeeds; 0 where none does."""
    size = state.batch_size
    while (size := size // 2) > 1:
        state.optimizer.zero_grad()
        if state.images.images.is_cuda:
            torch.cuda.empty_cache()
        try:
            _seconds_per_step(state, size)
        except torch.OutOfMemoryError:
            continue
        return size
    return 0


def _seconds_per_step(state: Training, batch_size: int) -> float:
    """Of a forward and backward pass, timed once after a warm-up. In eval mode and without a step: nothing changes."""
    device = state.images.images.device
    images = state.images.normalized(slice(0, batch_size))
    state.model.eval()
    began = 0.0
    for _ in range(2):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=state.settings.precision == "bf16"):
            if state.teacher is not None:
                with torch.no_grad():
                    state.teacher(images)
            state.forward(images).float().square().mean().backward()
        state.optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _epoch_line(line: dict[str, Any], epochs: int, *, remaining: float) -> str:
    temperature = (
        f"  T {line['temperature_min']:.1f}-{line['temperature_max']:.1f}" if "temperature_min" in line else ""
    )
    adjusted = f"  adjusted {line['adjusted']:.1%}" if "adjusted" in line else ""
    return (
        f"{line['phase']} {line['epoch'] + 1}/{epochs}  loss {line['loss']:.3f}  top1 {line['eval_top1']:.2%}"
        f"{temperature}{adjusted}  {line['images_per_s']:,.0f} images/s  {console.duration(remaining)} left"
    )
