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
    for prefix, optimizer in state.optimizers.items():
        for number, slots in optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}.{number}.{name}": value for name, value in slots.items() if value is not None}
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
        slots = _optimizer_slots(optimizer, found.part(prefix))
        optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    state.means = Means()
    state.means.values = {name: value.to(device) for name, value in found.part("means").items()}
    state.means.steps = found.meta["mean_steps"]
    state.epoch, state.step, state.seconds = found.meta["epoch"], found.meta["step"], found.meta["seconds"]
    if state.schedule is not None:
        state.schedule.step_update(state.epoch * state.batches.steps_per_epoch + state.step)
    torch.set_rng_state(state.world.own_random_state(found.tensors["random.cpu"]))
    if device.type == "cuda" and "random.cuda" in found.tensors:
        torch.cuda.set_rng_state(state.world.own_random_state(found.tensors["random.cuda"]), device)


def take_terms(state: Training, checkpoints: Path) -> None:
    """Sets projections and discriminators to their state in the newest checkpoint of an earlier training."""
    if state.terms is not None and (found := newest_checkpoint(checkpoints)) is not None:
        state.terms.load_state_dict(found.part("terms"))


def _optimizer_slots(optimizer: torch.optim.Optimizer, saved: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state, by parameter number."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in saved.items():
        number, _, name = key.partition(".")
        like = parameters[int(number)]
        same = value.shape == like.shape  # fused kernels walk memory: a slot needs its parameter's memory format
        slots.setdefault(int(number), {})[name] = torch.empty_like(like).copy_(value) if same else value
    return slots
