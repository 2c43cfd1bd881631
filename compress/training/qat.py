"""Fine-tunes a student for INT8 (quantisation-aware training), with the teacher and the supervision of its training.

In: a trained float student. Out: the same student with weights that tolerate INT8, and the range of each layer's input,
which the export uses. Convolutions and linear layers compute with the rounding that INT8 gives their inputs and
weights (`compress.training.quantizers`). An export writes two INT8 graphs (`export.int8.quantize`). The rounding is
that of the coarser of the two, TensorRT's: symmetric, with one scale for an input and one for each channel of a weight.
Such a scale stays valid when a BatchNorm is later folded into the weight.
"""

import copy
import hashlib
import shutil
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compress.data import Splits
from compress.distributed.world import current
from compress.system.errors import UsageError
from compress.training.checkpoint import newest_checkpoint
from compress.training.loop import Job, Position, train
from compress.training.memo import Memo
from compress.training.quantizers import InputQuantizer, WeightQuantizer

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_INPUT = "input_quantizer"
_OWN_SETTINGS = {"warmup_epochs": 0.0, "schedule": "cosine", "ema": None, "head_lr": None, "freeze_epochs": 0.0}


def fine_tune(
    student: nn.Module,
    job: Job,
    splits: Splits,
    *,
    checkpoints: Path,
    teacher: nn.Module | None,
    memo: Memo | None = None,
) -> Generator[Position, None, dict[str, list[float]]]:
    """Fine-tunes the student in place for train.quantize_epochs. It resumes like any training.

    Args:
        job: the student's training, which this one follows.
        checkpoints: the folder for the checkpoints of the fine-tuning.
        teacher: supervises the student, as before.
        memo: what the trainings that take turns have in common.

    Yields:
        The position before each step.

    Returns:
        [lowest, highest] input of each layer, by its name (`input_ranges`).

    Raises:
        UsageError: the student cannot be quantised (`with_fake_quantization`).
        CompressError: whatever `train` raises.
    """
    settings = job.settings
    lr = settings.lr / 100 if settings.quantize_lr is None else settings.quantize_lr
    weights = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    sha256 = hashlib.sha256(safetensors.torch.save(weights)).hexdigest()
    epochs = settings.quantize_epochs
    provenance = {**job.provenance, "student": sha256, "train.quantize_lr": lr, "train.quantize_epochs": epochs}
    current().from_leader(lambda: _remove_others(checkpoints, provenance))
    tuning = replace(
        job,
        phase="quantize",
        epochs=epochs,
        settings=settings.model_copy(update={**_OWN_SETTINGS, "lr": lr}),
        files=replace(job.files, checkpoints=checkpoints),
        provenance=provenance,
        views=None,
        follows=job.files.checkpoints,
    )
    quantized = yield from train(with_fake_quantization(student), tuning, splits, teacher=teacher, memo=memo)
    student.load_state_dict(float_weights(quantized))
    return input_ranges(quantized)


def _remove_others(checkpoints: Path, provenance: dict[str, Any]) -> None:
    """Removes checkpoints of another student, learning rate or number of epochs."""
    found = newest_checkpoint(checkpoints)
    if found is not None and found.meta["provenance"] != provenance:
        shutil.rmtree(checkpoints)


def with_fake_quantization(model: nn.Module) -> nn.Module:
    """A copy of the model with quantisers in front of each layer and on its weight.

    Raises:
        UsageError: the model has no convolution or linear layer, or a layer is parametrised, for example by
            weight_norm.
    """
    quantized = copy.deepcopy(model)
    layers = [module for module in quantized.modules() if isinstance(module, LAYERS)]
    if not layers:
        raise UsageError("train.quantize: the student has no convolution or linear layer")
    for name, module in quantized.named_modules():
        if parametrize.is_parametrized(module):
            raise UsageError(
                f"train.quantize: the student's {name!r} is parametrised, such as by weight_norm",
                "Remove that, with torch.nn.utils.parametrize.remove_parametrizations.",
            )
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", WeightQuantizer())
        layer.add_module(_INPUT, InputQuantizer())
        layer.register_forward_pre_hook(_quantize_input)
    return quantized


def float_weights(quantized: nn.Module) -> dict[str, Tensor]:
    """The state_dict for the model that `with_fake_quantization` was given, with the weights of its quantised copy."""
    prefix, suffix = "parametrizations.", ".original"
    weights: dict[str, Tensor] = {}
    for name, value in quantized.state_dict().items():
        if f"{_INPUT}." in name or (prefix in name and not name.endswith(suffix)):
            continue
        weights[name.replace(prefix, "").removesuffix(suffix)] = value
    return weights


def input_ranges(quantized: nn.Module) -> dict[str, list[float]]:
    """[lowest, highest] input of each layer in training, by the layer's name: moving averages over batches.

    Layers that never ran are left out.
    """
    found = {}
    for name, layer in quantized.named_modules():
        if isinstance(layer, LAYERS):
            quantizer: Any = layer.get_submodule(_INPUT)
            if torch.isfinite(quantizer.min_val):  # infinite where the layer never ran
                found[name] = [quantizer.min_val.item(), quantizer.max_val.item()]
    return found


def _quantize_input(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Quantises the first input. Its range follows the data in training and is fixed in evaluation."""
    return (layer.get_submodule(_INPUT)(inputs[0].float()), *inputs[1:])
