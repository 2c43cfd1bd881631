"""Which parts of a model keep their weights: all up to a module throughout, and all but the head at the start.

In: a model and settings. Out: parameters without gradients, and BatchNorms that use and keep their running statistics.
"""

import difflib
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from compress import recipe
from compress.models.wrappers import unwrapped
from compress.system.errors import UsageError


def head_of(model: nn.Module, key: str) -> list[nn.Parameter]:
    """The parameters of the last layer, which timm calls the classifier.

    Args:
        key: the setting that needs it, for the error message.

    Raises:
        UsageError: the model does not say which layer is its last, or that layer has no parameters.
    """
    inner: Any = unwrapped(model)
    made = inner.get_classifier() if hasattr(inner, "get_classifier") else ()
    modules = [
        module for module in (made if isinstance(made, tuple | list) else (made,)) if isinstance(module, nn.Module)
    ]
    if not (parameters := [parameter for module in modules for parameter in module.parameters()]):
        raise UsageError(
            f"{key} needs the last layer, and {type(inner).__name__} does not say which it is",
            "Give the model a method get_classifier() that returns it, as timm's models have.",
        )
    return parameters


def names_up_to(model: nn.Module, name: str, key: str = "train.freeze") -> set[str]:
    """The names of the parameters and buffers of a module and of all before it.

    timm's `group_matcher` tells the order of layers. Within a layer, and in models without that method, the order is
    that in which the model registers its modules.

    Args:
        name: of the module.
        key: the setting that names it, for the error message.

    Raises:
        UsageError: the model has no such module, or the module has no weights.
    """
    inner: Any = unwrapped(model)
    names = list(inner.state_dict())
    within = {name: [one for one in names if one.startswith(f"{name}.")] for name, _ in inner.named_modules() if name}
    if not within.get(name):
        near = difflib.get_close_matches(name, [one for one, inside in within.items() if inside], n=4, cutoff=0.0)
        why = "has no weights" if name in within else "is none of its modules"
        raise UsageError(f"{key}: {name!r} of {type(inner).__name__} {why}", f"Nearest: {', '.join(near)}.")
    layers: dict[str, int] = {}
    if hasattr(inner, "group_matcher"):
        layers = group_with_matcher(((one, one) for one in names), inner.group_matcher(coarse=False), reverse=True)  # type: ignore[assignment]
    position = {one: (layers.get(one, len(names)), number) for number, one in enumerate(names)}
    last = max(position[one] for one in within[name])
    return {one for one in names if position[one] <= last}


class Freezing:
    """What of a model is not trained now. It freezes `train.freeze` as soon as it is made.

    Attributes:
        head: the parameters of the last layer where a setting needs them, else none.

    Args:
        steps_per_epoch: turns `freeze_epochs` into steps.

    Raises:
        UsageError: `freeze` names no module, or nothing would be left to train; or a setting needs the last layer,
            and the model does not say which it is.
    """

    def __init__(self, model: nn.Module, settings: recipe.TrainSettings, steps_per_epoch: int) -> None:
        inner = unwrapped(model)
        self._first_steps = round(settings.freeze_epochs * steps_per_epoch)
        self._head_alone = False
        self.head: list[nn.Parameter] = []
        if settings.head_lr is not None or settings.freeze_epochs:
            self.head = head_of(model, "train.freeze_epochs" if settings.head_lr is None else "train.head_lr")
        self._always = _Part(inner, set() if settings.freeze is None else names_up_to(model, settings.freeze))
        self._always.require_gradients(False)
        if not any(parameter.requires_grad for parameter in self.head or inner.parameters()):
            self._always.require_gradients(True)
            raise UsageError(
                f"train.freeze: {settings.freeze} leaves {'no head' if self.head else 'nothing'} to train",
                "Name an earlier module.",
            )
        in_head = {id(parameter) for parameter in self.head}
        parameters = dict(inner.named_parameters(remove_duplicate=False))
        self._body = _Part(inner, {name for name in inner.state_dict() if id(parameters.get(name)) not in in_head})

    def before_step(self, updates: int) -> bool:
        """Gives and takes gradients as the next step needs them. Whether anything changed.

        Args:
            updates: steps done so far, of all epochs.
        """
        before, self._head_alone = self._head_alone, updates < self._first_steps
        if self._head_alone != before:
            self._body.require_gradients(before)
        return self._head_alone != before

    def hold_statistics(self) -> None:
        """Puts the BatchNorms of what is not trained now into eval mode."""
        for norm in [*self._always.norms, *(self._body.norms if self._head_alone else [])]:
            norm.eval()

    def lift(self) -> None:
        """Gives all that it froze its gradients back."""
        self._always.require_gradients(True)
        self._body.require_gradients(True)


class _Part:
    """The parameters of those names that needed a gradient so far, and the BatchNorms with any of those names."""

    def __init__(self, model: nn.Module, names: set[str]) -> None:
        named = {id(value): value for name, value in model.named_parameters(remove_duplicate=False) if name in names}
        self.parameters = [parameter for parameter in named.values() if parameter.requires_grad]
        self.norms = [
            module
            for path, module in model.named_modules()
            if isinstance(module, _BatchNorm) and any(f"{path}.{name}" in names for name in module.state_dict())
        ]

    def require_gradients(self, value: bool) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(value)
