"""The optimiser of a training: any of timm's, with the parameter groups that the settings ask for.

In: a model and settings. Out: a torch optimiser. Its groups carry timm's `lr_scale`, by which a schedule multiplies the
learning rate of the group.
"""

import difflib
from collections.abc import Iterable
from typing import Any

import torch
from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.optim._param_groups import _matches_pattern, param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn

from compress import recipe
from compress.models.wrappers import unwrapped
from compress.system.errors import UsageError, first_line

LOOKAHEAD = "lookahead_"
_FUSED = {torch.optim.SGD: 1, torch.optim.Adam: 2, torch.optim.AdamW: 2}
"""torch's optimisers with a fused kernel, and the values that each keeps for a weight."""
_LIBRARIES = {"apex": "adamw, lamb or sgd", "bitsandbytes": "adamw, lion or sgd"}


def check_optimizer(settings: recipe.TrainSettings, key: str = "train") -> None:
    """Looks for the optimiser, and takes one step with it for a small weight unless it is one of torch's fused ones.

    Args:
        key: of the settings in the recipe, for the error message.

    Raises:
        UsageError: timm has no such optimiser, or it is one that a training cannot use or resume.
    """
    name = settings.optimizer.lower()
    base = name.removeprefix(LOOKAHEAD)
    if base not in (names := [str(one) for one in list_optimizers()]):
        close = difflib.get_close_matches(base, [one for one in names if not _why_refused(one)], n=4, cutoff=0.0)
        raise UsageError(
            f"{key}.optimizer: timm has no optimiser {settings.optimizer!r}", f"Nearest: {', '.join(close)}."
        )
    if why := _why_refused(base):
        raise UsageError(f"{key}.optimizer: {settings.optimizer} {why[0]}", why[1])
    try:
        if not _is_fused(settings):
            _trial(settings)
    except Exception as error:  # an optimiser answers a setting that it refuses with any kind of exception
        raise UsageError(
            f"{key}.optimizer: {settings.optimizer} does not work here ({first_line(error)})",
            "Choose another one, such as sgd or adamw.",
        ) from error


def make_optimizer(
    model: nn.Module,
    projections: nn.Module | None,
    settings: recipe.TrainSettings,
    *,
    head: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """The optimiser of the parameters that need a gradient.

    Biases and norms have no weight decay, and what the model's `no_weight_decay` names has none either, such as the
    positions of a ViT. With layer_decay the groups and their `lr_scale` are those of timm's `param_groups_layer_decay`.

    Args:
        projections: of the terms. They have the learning rate `lr`.
        head: the parameters that get groups of their own, with the learning rate `head_lr` if it is set.

    Raises:
        UsageError: layer_decay is set, and the model does not say in which order its layers are.
    """
    apart = {id(parameter) for parameter in head}
    decay = settings.weight_decay
    inner: Any = unwrapped(model)
    undecayed = set(inner.no_weight_decay()) if hasattr(inner, "no_weight_decay") else set()
    if settings.layer_decay is None and not apart:
        whole = nn.ModuleList([model] if projections is None else [model, projections])
        exempt = {id(value) for name, value in inner.named_parameters() if _matches_pattern(name, undecayed)}
        names = [name for name, value in whole.named_parameters() if id(value) in exempt]
        return _optimizer(param_groups_weight_decay(whole, decay, no_weight_decay_list=names), settings)
    if settings.layer_decay is None:
        groups = param_groups_weight_decay(inner, decay, no_weight_decay_list=undecayed)
    else:
        check_layers_have_an_order(inner)
        groups = param_groups_layer_decay(
            inner, decay, no_weight_decay_list=undecayed, layer_decay=settings.layer_decay
        )
    # In a group of torch's fused SGD all parameters must have had their first step, or none.
    groups = _with_head_apart(groups, apart, None if settings.head_lr is None else settings.head_lr / settings.lr)
    if projections is not None:
        groups += param_groups_weight_decay(projections, decay)
    return _optimizer(groups, settings)


def check_layers_have_an_order(model: nn.Module) -> None:
    """Raises UsageError where timm takes the whole model for one layer, so that layer_decay would do nothing."""
    inner = unwrapped(model)
    named = (getattr(inner, "pretrained_cfg", None) or {}).get("classifier")
    if not hasattr(inner, "group_matcher") and not named:
        raise UsageError(
            f"train.layer_decay: {type(inner).__name__} does not say in which order its layers are",
            "Give the model a method group_matcher(), as timm's models have, or leave layer_decay out.",
        )


def scale_learning_rates(optimizer: torch.optim.Optimizer) -> None:
    """Multiplies each group's learning rate by its `lr_scale`, as a schedule does. For a training without one."""
    for group in optimizer.param_groups:
        group["lr"] *= group.get("lr_scale", 1.0)


def skips_bad_steps(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the optimiser obeys `found_inf`, by which its kernel skips a step without waiting for the device."""
    return bool(optimizer.defaults.get("fused"))


def values_per_weight(settings: recipe.TrainSettings) -> int:
    """How many values the optimiser keeps for each weight of a matrix, about."""
    if _is_fused(settings):
        return _FUSED[_class(settings)]
    parameter, optimizer = _trial(settings)
    slots = optimizer.state_dict()["state"].get(0, {}).values()
    return round(sum(slot.numel() for slot in slots if isinstance(slot, Tensor)) / parameter.numel())


def restart_counters(optimizer: torch.optim.Optimizer) -> None:
    """Removes the counter of steps from groups that have not been updated. lamb and adan count steps by groups."""
    updated = {number for number, slots in optimizer.state_dict()["state"].items() if slots}
    first = 0
    for group in optimizer.param_groups:
        numbers = range(first, first := first + len(group["params"]))
        if updated.isdisjoint(numbers):
            group.pop("step", None)


def _optimizer(groups: Any, settings: recipe.TrainSettings) -> torch.optim.Optimizer:
    name = settings.optimizer.lower()
    info = get_optimizer_info(name.removeprefix(LOOKAHEAD))
    options: dict[str, Any] = {}
    if (info.defaults or {}).get("nesterov"):
        options["nesterov"] = settings.nesterov and settings.momentum > 0
    if _is_fused(settings):
        options["fused"] = True
    return create_optimizer_v2(groups, name, lr=settings.lr, momentum=settings.momentum, **options)


def _class(settings: recipe.TrainSettings) -> Any:
    return get_optimizer_info(settings.optimizer.lower().removeprefix(LOOKAHEAD)).opt_class


def _is_fused(settings: recipe.TrainSettings) -> bool:
    return _class(settings) in _FUSED and not settings.optimizer.lower().startswith(LOOKAHEAD)


def _trial(settings: recipe.TrainSettings) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    """A small weight and its optimiser after one step. torch's random stream does not move."""
    with torch.random.fork_rng(devices=[]):
        parameter = nn.Parameter(torch.linspace(-1.0, 1.0, 64 * 64).view(64, 64))
        optimizer = _optimizer([{"params": [parameter], "weight_decay": settings.weight_decay}], settings)
        parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return parameter, optimizer


def _why_refused(name: str) -> tuple[str, str] | None:
    """What is wrong with one of timm's optimisers, and a hint."""
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):  # a class of a library that timm imports when it is asked for
        library = info.opt_class.split(".")[0]
        return f"is of {library}, with which compress does not train", f"Use {_LIBRARIES.get(library, 'adamw')}."
    if name.startswith("kron"):
        return "draws random numbers that no checkpoint holds", "Use adamw, lamb or muon."
    return ("needs second derivatives, which a step does not compute", "Use adamw.") if info.second_order else None


def _with_head_apart(groups: list[dict[str, Any]], head: set[int], scale: float | None) -> list[dict[str, Any]]:
    """The groups, with the parameters of the head (their ids) in groups of their own, whose lr_scale is `scale`."""
    apart = []
    for group in groups:
        inside = [parameter for parameter in group["params"] if id(parameter) in head]
        outside = [parameter for parameter in group["params"] if id(parameter) not in head]
        if outside:
            apart.append({**group, "params": outside})
        if inside:
            apart.append({**group, "params": inside} | ({} if scale is None else {"lr_scale": scale}))
    return apart
