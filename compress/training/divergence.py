"""Finds a loss or gradient that is not finite, before the optimiser's step.

In: the losses and the gradient norm of a step. Out: a flag on the device. The training does not wait for the device.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from compress.system.errors import DivergedError


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The L2 norm of all gradients as one vector: a scalar on their device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or gradients[0].device.type != "cpu":
        return torch.nn.utils.get_total_norm(gradients)
    # A dot product runs at memory speed. vector_norm took 3.5 times as long, which is 2 % of a ResNet-18's step.
    flat = [_in_memory_order(gradient) for gradient in gradients]
    return torch.stack([torch.dot(values, values).float() for values in flat]).sum().sqrt()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """All elements [N], without a copy where the memory is dense."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten()


class DivergenceWatch:
    """Remembers the first bad step of an epoch and its values, on the device. After that step the flag stays set.

    Args:
        steps: the number of steps of this epoch that were done before.
        terms: names of the parts that the terms add to the loss.
    """

    def __init__(self, device: torch.device, steps: int = 0, *, terms: tuple[str, ...] = ()) -> None:
        self._parts = ("kd", "ce", *terms, "loss")
        self._causes = "train.lr, or the weights of supervision.terms," if terms else "train.lr,"
        self._flag = torch.zeros((), device=device)
        self._steps = torch.full((), float(steps), device=device)
        self._values = torch.zeros(len(self._parts) + 1, device=device)

    def check(self, parts: dict[str, Tensor], gradient_norm: Tensor) -> Tensor:
        """Looks at one step.

        Args:
            parts: the losses of the step, scalars by name.
            gradient_norm: scalar.

        Returns:
            The flag, float32 scalar on the device: 1.0 from the first bad step on, else 0.0.
        """
        zero = torch.zeros_like(self._flag)
        values = torch.stack([parts.get(name, zero).detach().float() for name in self._parts] + [gradient_norm.float()])
        self._steps = self._steps + (1 - self._flag)
        self._values = torch.where(self._flag > 0, self._values, values)
        self._flag = torch.maximum(self._flag, 1 - values.isfinite().all().float())
        return self._flag

    def diverged(self) -> bool:
        """Whether a step was bad. Waits for the device."""
        return self._flag.item() > 0

    def raise_if_diverged(self, phase: str, epoch: int) -> None:
        """Waits for the device and raises where a step was bad.

        Raises:
            DivergedError: names epoch and step, both from 1, and the first part of the loss that is not finite.
        """
        if not self.diverged():
            return
        names = (*self._parts, "the gradient")
        bad, value = next((n, v) for n, v in zip(names, self._values.tolist(), strict=True) if not math.isfinite(v))
        raise DivergedError(
            f"{phase} training diverged at epoch {epoch + 1}, step {int(self._steps.item())}: {bad} is {value:g}",
            f"Nothing was saved from this step. Lower {self._causes} or set train.clip_grad or train.warmup_epochs.",
        )
