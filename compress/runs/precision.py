"""What `train.precision: auto` stands for, by a measurement of some seconds on the machine at hand.

In: a model's entry of the recipe, the image size and the device. Out: bf16 or fp32. A decision on a CPU is kept in the
cache, so that all runs of this machine agree: a teacher that was trained in the other precision is another teacher.
"""

import functools
import json
import logging
import statistics
import time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compress.models.create import make_timm_model
from compress.recipe import Member, Student
from compress.runs.kept import keep, model_facts, recalled
from compress.system.allocator import keep_freed_memory
from compress.system.errors import CompressError
from compress.system.modules import in_channels_last
from compress.system.platform import processor
from compress.training.autocast import in_bf16

logger = logging.getLogger(__name__)

Precision = Literal["bf16", "fp32"]

GAIN = 1.1
"""How many times as fast as fp32 bf16 must be: less is not worth its rounding, and noise would decide."""
_BUDGET_S, _MOST_S = 1.0, 10.0
_ROUNDS = 3
_IMAGES, _MOST_IMAGES = 4, 32
_STEP_S = 0.8
"""A step takes about so long: with few images the casts of weights count for more than in training."""
_CLASSES = 10
_WAY = 2
"""Of computing in bf16, `compress.training.autocast`. A decision about another one is none."""
_SMALL_MAP = 2
"""Models with such maps stay in fp32: they are so small that noise would decide, and differently for each student."""
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


def fast_precision(model: Student | Member, image_size: int, device: torch.device) -> Precision:
    """The precision in which a model is trained fast on this device, and safely.

    On a GPU it is bf16 if that computes in it, as those since Ampere do. On a CPU with bf16 instructions training steps
    in both take turns.

    Args:
        model: the recipe's entry of a teacher or a student.
        image_size: pixels a side.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    cpu, flags = processor()
    if not _BF16_FLAGS.intersection(flags):
        return "fp32"
    try:
        made = model_facts(model, image_size)
    except CompressError:
        return "fp32"  # the run says what is wrong with the model
    facts = {"cpu": cpu, "bf16": _WAY, "flags": flags, "torch": torch.__version__, "threads": torch.get_num_threads()}
    return _kept(json.dumps({**facts, **made}, sort_keys=True))


@functools.cache
def _kept(key: str) -> Precision:
    """The decision in the cache, or a new one. `key` is JSON of all that it depends on."""
    facts = json.loads(key)
    found = recalled("precision", facts).get("precision")
    if found in ("bf16", "fp32"):
        return found
    decided, gain = measured(facts["model"], facts["args"], facts["image_size"])
    why = "bf16 is not safe here, or was not measured in time" if gain is None else f"bf16 is {gain:.2f} times as fast"
    logger.info(f"precision of {facts['model']} at {facts['image_size']} pixels: {decided} ({why})")
    keep("precision", facts, precision=decided, bf16_times_as_fast=gain)
    return decided


def measured(name: str, args: dict[str, Any], image_size: int) -> tuple[Precision, float | None]:
    """Trains a model of random weights on images of noise, in fp32 and in bf16 in turns, with memory as in training.

    torch's random stream does not change.

    Returns:
        The precision, and how many times as fast as fp32 bf16 was. None where it is not safe, or
        where a step takes so long that there is no time to compare.
    """
    keep_freed_memory()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model = make_timm_model(name, args, image_size, num_classes=_CLASSES)
        except CompressError:
            return "fp32", None  # the run says what is wrong with it
        images = torch.randn(_MOST_IMAGES, 3, image_size, image_size).to(memory_format=torch.channels_last)
        model = in_channels_last(model, images.device).train()
        try:
            if _has_small_maps(model, images):
                return "fp32", None
            gain = _gain(model, images)
        except Exception:  # noqa: BLE001 - a model that cannot take these images: the run says so
            return "fp32", None
    return ("bf16" if gain is not None and gain >= GAIN else "fp32"), gain


def _has_small_maps(model: nn.Module, images: Tensor) -> bool:
    """Whether a convolution with a kernel of more than a pixel sees a map of one or two pixels a side."""
    small: list[bool] = []

    def look(module: Any, inputs: tuple[Tensor, ...]) -> None:
        small.append(max(module.kernel_size) > 1 and min(inputs[0].shape[2:]) <= _SMALL_MAP)

    hooks = [module.register_forward_pre_hook(look) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model(images[:2])
    for hook in hooks:
        hook.remove()
    return any(small)


def _gain(model: nn.Module, images: Tensor) -> float | None:
    """The median over rounds of fp32's time over bf16's. None where gradients are not finite, or a step takes too long.

    There are at least three rounds, in a second or more. A busy machine may not have them in ten.

    Args:
        images: as many as a step takes at most; of a slow model fewer are taken.
    """
    ratios: list[float] = []
    began = time.perf_counter()
    for bf16 in (False, True):
        start = time.perf_counter()
        _step(model, images[:_IMAGES], bf16=bf16)
        taken = time.perf_counter() - start
    images = images[: max(_IMAGES, int(_IMAGES * _STEP_S / max(taken, 1e-9)))]
    while len(ratios) <= _ROUNDS or time.perf_counter() - began < _BUDGET_S:
        seconds = {}
        for bf16 in (False, True) if len(ratios) % 2 else (True, False):
            start = time.perf_counter()
            _step(model, images, bf16=bf16)
            seconds[bf16] = time.perf_counter() - start
            if not all(weight.grad is None or bool(weight.grad.isfinite().all()) for weight in model.parameters()):
                return None
            model.zero_grad()
            if time.perf_counter() - began > _MOST_S:
                return None
        ratios.append(seconds[False] / seconds[True])
    return round(statistics.median(ratios[1:]), 3)  # the first warms up


def _step(model: nn.Module, images: Tensor, *, bf16: bool) -> None:
    with in_bf16(images.device, enabled=bf16):
        logits = model(images)
    logits.float().logsumexp(dim=1).mean().backward()
