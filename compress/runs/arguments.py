"""Checks the arguments of `distill`, and finds its device.

In: what the caller gave. Out: nothing or a device, or an error that names the argument.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.recipe import Recipe
from compress.system.arguments import require_type
from compress.system.errors import MachineError, UsageError


def check_arguments(recipe: Any, name: Any, out: Any, resume: Any, teacher: Any, student: Any) -> None:
    """Raises UsageError for an argument of `distill` that has a wrong type."""
    nothing = type(None)
    require_type(recipe, Recipe, "distill: recipe", "load_recipe(PATH) reads one.")
    require_type(name, str, "distill: name")
    require_type(out, (str, Path, nothing), "distill: out")
    require_type(resume, bool, "distill: resume")
    for role, module in (("teacher", teacher), ("student", student)):
        hint = f"Hand over a module, or name a model as {role}.model of the recipe."
        require_type(module, (nn.Module, nothing), f"distill: {role}", hint)


def torch_device(name: str | torch.device) -> torch.device:
    """The device that auto, cpu or cuda stands for.

    Raises:
        UsageError: any other name.
        MachineError: cuda, where torch finds no GPU.
    """
    name = str(name)
    if name not in ("auto", "cpu", "cuda"):
        chosen = "CUDA_VISIBLE_DEVICES=1 chooses the second GPU, for example." if name.startswith("cuda:") else ""
        raise UsageError(f"device {name!r} is none of auto, cpu and cuda", chosen)
    if name == "cuda" and not torch.cuda.is_available():
        raise MachineError("no CUDA device can be used", "Use --device cpu, or check the driver with nvidia-smi.")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
