"""What a training tells the user: its cost beforehand, a line for each epoch, and a batch size that fits into memory.

In: the state of a training. Out: text, or a MachineError with a hint.
"""

import math
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compress.system import console
from compress.system.errors import MachineError, is_out_of_memory
from compress.system.modules import rehearsing
from compress.training.accumulation import gradients
from compress.training.optimizer import values_per_weight
from compress.training.state import Training


def outlook(state: Training, epochs: int) -> str:
    """One line before the training starts: its size, about how long it takes, and the disk space of its checkpoints.

    It times one forward and backward pass. The state does not change.
    """
    size = sum(value.numel() * value.element_size() for value in state.model.state_dict().values()) / 1e6
    copies = 1 + values_per_weight(state.settings) + (state.ema is not None)
    steps = (epochs - state.epoch) * state.batches.steps_per_epoch - state.step
    done = f", going on from epoch {state.epoch + 1}, step {state.step}" if state.epoch or state.step else ""
    seconds = steps * _seconds_per_step(state, state.batches.images_each) if steps > 0 else 0.0
    time_left = f"about {console.duration(seconds)} and " if steps > 0 else ""
    parameters = sum(p.numel() for p in state.model.parameters()) / 1e6
    return (
        f"{state.phase}: {parameters:.1f} M parameters, {epochs} {'epoch' if epochs == 1 else 'epochs'} of "
        f"{state.batches.steps_per_epoch} steps of {state.batches.batch_size} images{done}; "
        f"{time_left}{size * copies * state.settings.keep_checkpoints:,.0f} MB of checkpoints"
    )


@contextmanager
def memory_explained(state: Training) -> Iterator[None]:
    """Turns an out-of-memory error within the block into a MachineError.

    Raises:
        MachineError: its hint names a batch size that fits, if one was found.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # the frames hold the tensors of the step
        if state.world.size > 1:  # a trial needs all processes, and the others may not have run out
            hint = "Lower train.batch_size, raise train.grad_accumulation, or start more processes"
        elif fitting := _batch_size_that_fits(state):
            parts = math.ceil(state.batches.batch_size / fitting) * state.settings.grad_accumulation
            hint = f"train.batch_size={fitting} fits, or train.grad_accumulation={parts} keeps the batch"
        else:
            hint = "No smaller batch fits: choose a smaller model"
        raise MachineError(
            f"{state.phase} training ran out of memory at epoch {state.epoch + 1}, step {state.step + 1}, with batches "
            f"of {state.batches.batch_size} images",
            f"{hint}; or free memory and go on with --resume.",
        ) from error


def _batch_size_that_fits(state: Training) -> int:
    """Halves the batch size until a pass succeeds; 0 where none does."""
    size = state.batches.batch_size
    while (size := size // 2) > 1:
        state.zero_grad()
        if state.batches.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            _seconds_per_step(state, size)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                continue
            raise
        return size
    return 0


def _seconds_per_step(state: Training, batch_size: int) -> float:
    """Seconds of a forward and backward pass as in training, timed once after a warm-up. Changes nothing."""
    batches, device = state.batches, state.batches.device
    images, labels = batches.images.normalized(slice(0, batch_size)), batches.images.labels[:batch_size]
    began = 0.0
    with rehearsing(state.model):
        state.begin_training()
        for _ in range(2):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            began = time.perf_counter()
            gradients(state, batches.supervised(images, labels))
            state.zero_grad()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
    return time.perf_counter() - began


def epoch_line(line: dict[str, Any], epochs: int, *, remaining: float) -> str:
    """The line of progress for an epoch. line: as in metrics.jsonl. remaining: seconds until the end."""
    temperature = (
        f"  T {line['temperature_min']:.1f}-{line['temperature_max']:.1f}" if "temperature_min" in line else ""
    )
    adjusted = f"  adjusted {line['adjusted']:.1%}" if "adjusted" in line else ""
    return (
        f"{line['phase']} {line['epoch'] + 1}/{epochs}  loss {line['loss']:.3f}  top1 {line['eval_top1']:.2%}"
        f"{temperature}{adjusted}  {line['images_per_s']:,.0f} images/s  {console.duration(remaining)} left"
    )
