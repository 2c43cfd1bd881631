"""bfloat16 in a forward pass that is trained, with what CPUs compute slowly or wrongly in it left in float32.

In: where the images are. Out: a context for the forward pass, whose backward pass follows it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FAST_KERNEL, _SMALL_MAP = 3, 2


@contextmanager
def in_bf16(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16 around a forward pass that is trained.

    On a CPU two kinds of convolutions compute in float32, and give bfloat16. Depthwise ones with kernels above 3 or
    with strides: with their gradients they take oneDNN 2 to 7 times as long in bfloat16. Those with kernels above 1 on
    maps of one or two pixels: their gradients are sometimes not finite with AMX (recipes/results/training.md).
    """
    with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
        if enabled and device.type == "cpu":
            with _Exceptions():
                yield
        else:
            yield


class _Exceptions(TorchFunctionMode):
    """Convolutions for which float32 is better run in it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _wants_float32(*args):
            images, weight, bias, *rest = args
            with torch.autocast("cpu", enabled=False):
                return func(images.float(), weight.float(), None if bias is None else bias.float(), *rest).bfloat16()
        return func(*args, **(kwargs or {}))


def _wants_float32(
    images: Tensor, weight: Tensor, _: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    """The arguments of torch.conv2d, as nn.Conv2d gives them."""
    kernel = max(weight.shape[2:])
    if kernel > 1 and min(images.shape[-2:]) <= _SMALL_MAP:
        return True
    strides = (stride,) if isinstance(stride, int) else stride
    return groups > 1 and weight.shape[1] == 1 and (kernel > _FAST_KERNEL or max(strides) > 1)
