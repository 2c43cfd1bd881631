"""The gradients of a step. A batch may be computed in parts, one after the other, which needs less memory.

In: a Training and a batch. Out: gradients, the parts of the loss and the logits. They are those of the whole batch,
apart from BatchNorm, which sees a part at a time.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from compress.losses.labels import Mixed
from compress.training.batches import Batch
from compress.training.state import Training, loss_parts, of_student, parts_of_loss

_Buffers = list[tuple[nn.Module, str, Tensor]]


def gradients(state: Training, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
    """Computes the gradients of a batch, as the mean over the processes.

    Where no loss looks across the batch, each part is a step of its own whose loss counts by its share of the images.
    Else the whole loss needs all logits first: they are computed without what a backward pass needs, and each part runs
    a second time in the backward pass. So it is with images without a label, since cross-entropy is a mean over those
    with one.

    Args:
        batch: of this process.

    Returns:
        The parts of the loss, scalars by name, and the student's logits [B, C] without gradient.
    """
    if state.settings.grad_accumulation == 1:
        parts, logits = loss_parts(state, batch)
        state.backward(parts["loss"])
        return parts, logits.detach()
    count = min(state.settings.grad_accumulation, len(batch.labels))
    if state.objective.looks_across_the_batch or state.batches.unlabeled_each:
        parts, logits = _with_second_passes(state, batch, count)
    else:
        parts, logits = _part_by_part(state, batch, count)
    modules = [state.model] if state.terms is None else [state.model, state.terms]
    state.world.average_gradients(parameter for module in modules for parameter in module.parameters())
    return parts, logits


def _part_by_part(state: Training, batch: Batch, count: int) -> tuple[dict[str, Tensor], Tensor]:
    total: dict[str, Tensor] = {}
    logits: list[Tensor] = []
    for part in _split(batch, count):
        share = len(part.labels) / len(batch.labels)
        parts, of_part = loss_parts(state, part)
        (share * parts["loss"]).backward()
        for name, value in parts.items():
            value = share * value.detach()
            total[name] = total[name] + value if name in total else value
        logits.append(of_part.detach())
    return total, torch.cat(logits)


def _with_second_passes(state: Training, batch: Batch, count: int) -> tuple[dict[str, Tensor], Tensor]:
    made = [_twice(state, images) for images in batch.images.tensor_split(count)]
    logits = torch.cat([of_part for of_part, _ in made])
    features = {path: torch.cat([maps[path] for _, maps in made]) for path in made[0][1]}
    parts = parts_of_loss(state, batch, logits, features)
    parts["loss"].backward()
    return parts, logits.detach()


def _twice(state: Training, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The student's logits and maps, whose backward pass runs the student again."""
    before: _Buffers = [(module, name, value.clone()) for module, name, value in _buffers(state.model)]
    contexts: Callable[[], Any] = lambda: (nullcontext(), _swapped(state.model, before))  # noqa: E731
    return checkpoint(of_student, state, images, use_reentrant=False, context_fn=contexts)  # type: ignore[return-value]


def _buffers(model: nn.Module) -> _Buffers:
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in module._buffers.items()
        if value is not None
    ]


@contextmanager
def _swapped(model: nn.Module, others: _Buffers) -> Iterator[None]:
    """The second pass sees the buffers that the first one saw, and does not update statistics and ranges again."""
    now = _buffers(model)
    try:
        for module, name, value in others:
            module._buffers[name] = value
        yield
    finally:
        for module, name, value in now:
            module._buffers[name] = value


def _split(batch: Batch, count: int) -> Iterator[Batch]:
    features = {path: maps.tensor_split(count) for path, maps in batch.teacher_features.items()}
    logits = None if batch.teacher_logits is None else batch.teacher_logits.tensor_split(count)
    mixed: list[Mixed] = []
    if (whole := batch.mixed) is not None:
        pairs = zip(whole.labels.tensor_split(count), whole.share.tensor_split(count), strict=True)
        mixed = [Mixed(*pair) for pair in pairs]
    for number, (images, labels) in enumerate(
        zip(batch.images.tensor_split(count), batch.labels.tensor_split(count), strict=True)
    ):
        own = {path: parts[number] for path, parts in features.items()}
        of_mixed = mixed[number] if mixed else None
        yield Batch(images, labels, None if logits is None else logits[number], own, of_mixed)
