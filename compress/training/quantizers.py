"""Rounding to INT8 in float, through which the gradient passes straight: symmetric, to 255 multiples of a scale.

In: the input or the weight of a layer. Out: the same, rounded. torch.ao.quantization, which torch has deprecated, has
such modules with more options. They wait for the GPU in every call.
"""

import torch
from torch import Tensor, nn

from compress.distributed.world import current

_LARGEST = 127
_EPS = torch.finfo(torch.float32).eps
_NEW = 0.01
"""The share of the current batch in the moving average of a range, as in torch.ao.quantization."""


class InputQuantizer(nn.Module):
    """One scale for the whole tensor.

    The range is a moving average over the batches of training. With several processes each sees the range of the
    global batch. In evaluation it is fixed.
    """

    min_val: Tensor
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("min_val", torch.tensor(torch.inf))
        self.register_buffer("max_val", torch.tensor(-torch.inf))
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """The values, rounded. Float32 [...]."""
        if self.training:
            self._observe(values.detach())
        return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, -_LARGEST, _LARGEST)

    def _observe(self, values: Tensor) -> None:
        for known, now in zip((self.min_val, self.max_val), torch.aminmax(current().extremes(values)), strict=True):
            known.copy_(torch.where(known.isinf(), now, known + _NEW * (now - known)))
        self.scale.copy_(_scale(torch.maximum(-self.min_val, self.max_val)))


class WeightQuantizer(nn.Module):
    """One scale for each output channel, from the current weight."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight [C, ...], rounded."""
        scale = _scale(weight.detach().flatten(1).abs().amax(1))
        zero_point = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
        return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, 0, -_LARGEST, _LARGEST)


def _scale(largest: Tensor) -> Tensor:
    return (largest.float() / _LARGEST).clamp(min=_EPS)
