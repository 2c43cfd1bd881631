"""Saves the state of a training as a checkpoint, and puts it back.

In: a Training between two steps. Out: a Checkpoint, or the Training as it was. On a CPU it then goes on bit-identical.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.distributed.world import processes
from compress.losses.objective import Means
from compress.system.errors import InputError, UsageError
from compress.training.checkpoint import Checkpoint, newest_checkpoint
from compress.training.state import Training

_COUNTERS = ("step", "lookahead_step")
"""What optimisers count in a group, and not for each parameter."""


def snapshot(state: Training, provenance: dict[str, Any]) -> Checkpoint:
    """The state of a training as a checkpoint. All processes must call it together.

    Args:
        provenance: what must be equal when the checkpoint is restored.
    """
    tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in state.ema.module.state_dict().items()}
    if state.terms is not None:
        tensors |= {f"terms.{name}": value for name, value in state.terms.state_dict().items()}
    numbers: dict[str, float] = {}
    for prefix, optimizer in state.optimizers.items():
        for name, value in _optimizer_values(prefix, optimizer).items():
            if isinstance(value, Tensor):
                tensors[name] = value
            else:
                numbers[name] = value
    tensors |= {f"means.{name}": value for name, value in state.means.values.items()}
    tensors["random.cpu"] = state.world.random_states(torch.get_rng_state())
    if torch.cuda.is_initialized():
        tensors["random.cuda"] = state.world.random_states(torch.cuda.get_rng_state())
    meta = {
        "epoch": state.epoch,
        "step": state.step,
        "seconds": state.seconds,
        "mean_steps": state.means.steps,
        "processes": state.world.size,
        "provenance": provenance,
    }
    if numbers:
        meta["optimizer_numbers"] = numbers
    return Checkpoint(tensors, meta)


def restore(state: Training, found: Checkpoint, provenance: dict[str, Any], folder: Path) -> None:
    """Puts the state of a checkpoint back into a new training.

    Args:
        found: the checkpoint.
        provenance: what must equal the checkpoint's.
        folder: of the checkpoints, for error messages.

    Raises:
        InputError: the checkpoint is of other data or another teacher.
        UsageError: another number of processes made it.
    """
    if (before := found.meta.get("processes", 1)) != state.world.size:
        raise UsageError(
            f"the checkpoints in {folder} are of {processes(before)}, and here are {state.world.size}",
            f"Go on with {processes(before)}, or remove that folder.",
        )
    recorded = found.meta["provenance"]
    if changed := sorted(key for key in provenance if recorded.get(key) != provenance[key]):
        raise InputError(f"the checkpoints in {folder} are of another {', '.join(changed)}", "Use another --out.")
    device = state.batches.device
    state.model.load_state_dict(found.part("model"))
    if state.ema is not None:
        state.ema.module.load_state_dict(found.part("ema"))
    if state.terms is not None:
        state.terms.load_state_dict(found.part("terms"))
    for prefix, optimizer in state.optimizers.items():
        _restore_optimizer(prefix, optimizer, found)
    state.means = Means()
    state.means.values = {name: value.to(device) for name, value in found.part("means").items()}
    state.means.steps = found.meta["mean_steps"]
    state.epoch, state.step, state.seconds = found.meta["epoch"], found.meta["step"], found.meta["seconds"]
    if state.schedule is not None:
        state.schedule.step_update(state.updates)
    torch.set_rng_state(state.world.own_random_state(found.tensors["random.cpu"]))
    if device.type == "cuda" and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(state.world.own_random_state(found.tensors["random.cuda"]), device)


def take_terms(state: Training, checkpoints: Path) -> None:
    """Sets projections and discriminators to their state in the newest checkpoint of an earlier training."""
    if state.terms is not None and (found := newest_checkpoint(checkpoints)) is not None:
        state.terms.load_state_dict(found.part("terms"))


def _optimizer_values(prefix: str, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by name: tensors and numbers of parameters, and counters of groups."""
    content = optimizer.state_dict()
    slots = {f"{prefix}.{number}": slots for number, slots in content["state"].items()}
    groups = {
        f"{prefix}_groups.{number}": {name: group[name] for name in _COUNTERS if name in group}
        for number, group in enumerate(content["param_groups"])
    }
    every = {f"{owner}.{name}": value for owner, own in {**slots, **groups}.items() for name, value in own.items()}
    return {name: value for name, value in every.items() if value is not None}


def _restore_optimizer(prefix: str, optimizer: torch.optim.Optimizer, found: Checkpoint) -> None:
    """Puts back what `_optimizer_values` gave."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    slots: dict[int, dict[str, Any]] = {}
    for key, value in {**found.tensors, **found.meta.get("optimizer_numbers", {})}.items():
        owner, number, name = (*key.split(".", 2), "", "")[:3]
        if owner == f"{prefix}_groups":
            groups[int(number)][name] = value
        elif owner == prefix:
            like = parameters[int(number)]
            if isinstance(value, Tensor) and value.shape == like.shape:
                # Fused kernels walk memory: a slot needs its parameter's memory format.
                value = torch.empty_like(like, dtype=value.dtype).copy_(value)
            slots.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": groups})
