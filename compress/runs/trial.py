"""Trains a copy of a model for two steps before hours are spent on it.

In: a model and its training settings. Out: nothing, or an error that says what the model does not do. Some models do in
train mode what they never do in eval mode: torchvision's GoogLeNet returns a tuple there.
"""

import copy
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.data import Dataset
from compress.distributed.world import current
from compress.losses.taps import Tap
from compress.losses.terms import tap
from compress.recipe import Term
from compress.recipe.train import TrainSettings
from compress.runs.checks import device_of, require_logits
from compress.system.errors import CompressError, InputError, first_line, is_out_of_memory
from compress.system.modules import in_channels_last
from compress.training.autocast import in_bf16
from compress.training.state import refuse_batches_of_one

_STEPS = 2
_IMAGES = 2


def check_steps(
    model: nn.Module, dataset: Dataset, settings: TrainSettings, role: str, terms: Sequence[Term] = ()
) -> None:
    """Takes two steps with a copy of the model, as training does: train mode, both passes, the terms' features.

    The model and torch's random streams do not change.

    Args:
        role: "teacher", "student" or "assistant", for the error message.
        terms: whose features of the student are looked at.

    Raises:
        InputError: the model cannot be copied, fails in train mode, or returns no logits there or such as are not
            finite, or its logits do not depend on what is trained.
        UsageError: it has BatchNorm, and a step has one image; or a feature is no map.
    """
    images = min(settings.batch_size, len(dataset.train_labels))
    refuse_batches_of_one(model, current().images_each(images), settings.grad_accumulation, role)
    device = device_of(model)
    try:
        trial = in_channels_last(copy.deepcopy(model), device)
    except Exception as error:
        raise InputError(
            f"the {role} cannot be copied ({first_line(error)})",
            "Hand over a module that copy.deepcopy can copy: without open files, locks or tensors of an earlier pass.",
        ) from error
    generator = torch.Generator().manual_seed(0)
    size = dataset.image_size
    batch = torch.randn(_IMAGES, 3, size, size, generator=generator).to(device, memory_format=torch.channels_last)
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        found = tap(trial, terms, batch, role=role) if terms else None
        trial.train()
        try:
            for _ in range(_STEPS):
                _step(trial, batch, dataset, settings, role, found)
        except CompressError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"the {role} cannot be trained on images of {size} pixels: {first_line(error)}",
                "It runs in eval mode, and fails in train mode or in the backward pass.",
            ) from error


def _step(
    model: nn.Module, images: Tensor, dataset: Dataset, settings: TrainSettings, role: str, features: Tap | None
) -> None:
    labels = torch.zeros(len(images), dtype=torch.long, device=images.device)
    recording = nullcontext() if features is None else features.recording()
    before = images._version
    with in_bf16(images.device, enabled=settings.precision == "bf16"), recording:
        logits = model(images)
    require_logits(logits, len(images), dataset, role, " in train mode")
    if images._version != before:
        raise InputError(
            f"the {role} changes its images in place, which others use after it",
            "Write x = (x - mean) / std in place of x -= mean.",
        )
    if not bool(logits.isfinite().all()):
        raise InputError(f"the {role}'s logits are not finite in train mode", "It would end in the first step.")
    loss = F.cross_entropy(logits.float(), labels)
    for feature in () if features is None else features.features().values():
        loss = loss + feature.float().mean()
    if not loss.requires_grad:
        raise InputError(
            f"the {role}'s logits do not depend on a weight that can be trained",
            "Do not detach them, and let its parameters require a gradient.",
        )
    loss.backward()
    model.zero_grad()
